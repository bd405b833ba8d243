"""The numerical tables and figures of the paper as data, for `python -m iecl_jax.tools.tables`.

A table has a title, the source of the published numbers, a kind, and rows. The kinds:

  accuracy  trains every row, and evaluates it
  grid      trains every row and shows the rows as cells of a matrix
  time      measures training steps

A row has a label, the config that produces it (FILE:VARIANT), the published number as the paper
prints it (None if it prints none; a tuple for several metrics), and in `compared_with` the label of
the row that it is compared with. A row of a grid also has its `cell`, (row, column). A row is blank
at scales that its `scales` leave out, if there are any: one that differs from another only in the
number of epochs or the data set, which a smaller scale fixes, would repeat that run.

A table may name its `metrics`, and the `evaluations` that follow each pretraining at each scale;
iecl_jax/tools/tables/rows.py has all fields.
"""

from typing import Any

from iecl_jax.configs.imagenet_r50 import BATCH_SIZES, EPOCHS

LINEAR = "linear top-1, %"
SCALES, PAPER = ("smoke", "small", "paper"), ("paper",)

# --- Table 1 ---
RESNET50 = {
    "simclr": ("SimCLR", (66.5, 68.3, 69.8, 71.1)),
    "swav": ("SwAV with two views", (66.5, 69.1, 70.7, 71.0)),
    "moco_v2": ("MoCo-v2", (67.4, 69.9, 70.9, 71.3)),
    "simsiam": ("SimSiam", (68.1, 70.0, 70.8, 71.7)),
    "nnclr": ("NNCLR", (65.4, 66.1, 66.8, 68.7)),
    "all4one": ("All4One", (65.4, 66.0, 66.6, 68.9)),
    "matrix_ssl": ("Matrix-SSL", (69.2, 69.9, 71.1, 71.9)),
    "ie_cl": ("IE-CL", (68.3, 70.9, 71.7, 73.2)),
    "byol": ("BYOL (not in the paper's table)", (66.5, 70.6, 73.2, 74.3)),
}
TABLE_1 = [
    {
        "label": f"{label}, {epochs} epochs",
        "cell": (label, f"{epochs} epochs"),
        "config": f"configs/imagenet_r50.py:{epochs}" + f",{method}" * (method != "ie_cl"),
        "published": published,
        "scales": SCALES if epochs == EPOCHS[0] else PAPER,
    }
    for method, (label, numbers) in RESNET50.items()
    for epochs, published in zip(EPOCHS, numbers, strict=True)
]
SIZES = ", ".join(
    f"{BATCH_SIZES.get(method, 256)} for {label}" for method, (label, _) in RESNET50.items()
)
NOTES_1 = (
    f"Published with these batch sizes: {SIZES}.",
    "The paper's rows of SimCLR, SwAV, MoCo-v2 and SimSiam, and the row of BYOL, are those of "
    "Table 4 of the paper of SimSiam, whose authors trained all of them with two views of 224 "
    "pixels. That table has other numbers for SimCLR (70.4), SwAV (71.8), MoCo-v2 (72.2) and "
    "SimSiam (71.3) after 800 epochs, and for MoCo-v2 (71.0) after 400.",
    "BYOL's 74.3 % are more than any row of the paper's table has.",
    "SwAV with small crops too, as its authors train it, has 72.1, 73.9, 74.6 and 75.3 %.",
    "NNCLR's own paper has 75.6 % after 1000 epochs at batch 4096. Matrix-SSL's is quoted with "
    "71.1 % (or 69.2) after 100 epochs and 73.6 % after 400.",
)

# --- Table 2a ---
DATA_SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10"}
DATA_SETS |= {"imagenet": "ImageNet"}
RESNET18: dict[str, tuple[str, tuple[float | None, ...]]] = {
    "deepcluster": ("DeepCluster", (84.3, 50.1, 79.1, 41.1)),
    "simclr": ("SimCLR", (91.1, 65.3, 90.1, 52.4)),
    "moco_v2": ("MoCo-v2", (91.3, 68.3, 88.9, 52.5)),
    "byol": ("BYOL", (91.9, 69.2, 91.3, 53.1)),
    "simsiam": ("SimSiam", (91.2, 64.4, 90.5, 33.2)),
    "w_mse": ("W-MSE", (90.6, 64.5, 87.7, 47.2)),
    "moco_v3": ("MoCo-v3", (91.8, 68.8, 91.4, 56.1)),
    "s3oc": ("S3OC (our reading)", (91.0, 65.2, 91.4, None)),
    "minent": ("MinEnt", (90.8, 66.1, 91.5, None)),
    "light_moco": ("Light-MoCo", (None, None, None, 57.9)),
    "ie_cl": ("IE-CL", (92.1, 69.5, 91.9, 59.4)),
}
TABLE_2A = [
    {
        "label": f"{label}, {data_set}",
        "cell": (label, data_set),
        "config": f"configs/resnet18.py:{name},{method}",
        "published": published,
        "scales": SCALES if name == "cifar10" else PAPER,
    }
    for method, (label, numbers) in RESNET18.items()
    for (name, data_set), published in zip(DATA_SETS.items(), numbers, strict=True)
]
NOTES_2A = (
    "The code of S3OC is not public, and no recipe of DeepCluster with ResNet-18 is: those rows "
    "train readings of ours (docs/methods.md).",
)

# --- Table 2b ---
VOC = {
    "simclr": ("SimCLR", (76.74, 73.17)),
    "moco_v2": ("MoCo-v2", (77.32, 73.92)),
    "simsiam": ("SimSiam", (77.09, 73.45)),
    "ie_cl": ("IE-CL", (78.12, 74.41)),
}
TABLE_2B = [
    {"label": "supervised", "config": "", "published": (76.91, 73.76), "scales": ()},
    {"label": "random initialisation", "config": "", "published": (38.35, 40.90)},
    *(
        {
            "label": label,
            "config": "configs/imagenet_r50.py:100" + f",{method}" * (method != "ie_cl"),
            "published": published,
        }
        for method, (label, published) in VOC.items()
    ),
]
# Where the pretraining is small, its encoder is the one that the evaluations at that scale have
# without a checkpoint, so that the untrained row differs in the weights alone. A stem for small
# images would make maps of 1 pixel per pixel of the image.
ENCODER_2B = ["--config.encoder.name=resnet18", "--config.encoder.width=16"]
ENCODER_2B += ["--config.encoder.stem=imagenet"]
NOTES_2B = (
    "The supervised row needs a file with weights of a supervised ResNet-50, --supervised=FILE "
    "(docs/weights.md).",
    "The paper names VOC 2012, the two networks, Adam with rate 3e-4 for the segmentation and SGD "
    "with rate 1e-4 for the detection. It gives no split, image size, batch, schedule or output "
    "stride, nor the epochs of the pretraining. docs/voc.md has what is trained here.",
    "Its numbers suggest SBD's additional masks for the segmentation, train_aug to val "
    "(--evaluation.segmentation.data.train_split=train_aug), and train to val with a short "
    "schedule for the detection.",
    "mAP is VOC's AP at IoU 0.5, by area. The published numbers suggest that the paper's is too.",
)

# --- Tables 3 and 4 ---
BASELINE = "IE-CL without its components (in the paper MoCo-v2)"
TABLE_3 = [
    {"label": BASELINE, "config": "configs/ablation.py:baseline", "published": 52.50},
    *(
        {
            "label": label,
            "config": f"configs/ablation.py:{name}",
            "published": published,
            "compared_with": BASELINE,
        }
        for label, name, published in (
            ("+ SAIB and entropy", "saib", 58.80),
            ("+ KL", "saib+kl", 59.15),
            ("+ spectral norm (IE-CL)", "full", 59.41),
        )
    ),
]
ONE_BLOCK = "1 SAIB"
TABLE_4 = [
    {"label": ONE_BLOCK, "config": "configs/saib_cascade.py:1", "published": 59.41},
    *(
        {
            "label": f"{count} SAIBs",
            "config": f"configs/saib_cascade.py:{count}",
            "published": published,
            "compared_with": ONE_BLOCK,
        }
        for count, published in ((2, 58.62), (3, 58.71))
    ),
]

# --- Table 5 ---
PLUG_AND_PLAY = {
    "moco_v2": ("MoCo-v2", 66.29, 67.54),
    "byol": ("BYOL", 67.95, 68.76),
    "simclr": ("SimCLR", 63.34, 64.02),
    "simsiam": ("SimSiam", 66.25, 66.97),
}
TABLE_5 = [
    *(
        {"label": label, "config": f"configs/plug_and_play.py:{name}", "published": without}
        for name, (label, without, _) in PLUG_AND_PLAY.items()
    ),
    *(
        {
            "label": f"{label} + SAIB",
            "config": f"configs/plug_and_play.py:{name}+saib",
            "published": with_saib,
            "compared_with": label,
        }
        for name, (label, _, with_saib) in PLUG_AND_PLAY.items()
    ),
]

# --- Figure 3 ---
# The figure's text names SAIB both before and after the other columns. Here it is the last column:
# then "crop" is the strongest column, as in SimCLR's figure of the same experiment. The average of
# a row is the same either way.
GRID_COLUMNS = ("crop", "color", "noise", "rotate", "blur", "saib")
GRID = {
    "saib": (51.1, 49.8, 42.9, 29.7, 33.7, 8.1),
    "crop": (45.5, 46.4, 38.9, 22.1, 27.9, 15.2),
    "color": (31.2, 21.0, 26.5, 15.2, 13.4, 9.4),
    "noise": (25.8, 11.2, 12.5, 13.9, 13.7, 5.7),
    "rotate": (18.4, 9.5, 6.8, 8.3, 6.5, 5.5),
    "blur": (21.9, 4.0, 6.2, 4.0, 5.8, 8.8),
}
FIGURE_3 = [
    {
        "label": f"{query} on the query, {anchor} on the anchor",
        "cell": (query, anchor),
        "config": f"configs/augmentation_grid.py:{query},{anchor}",
        "published": published,
    }
    for query, numbers in GRID.items()
    for anchor, published in zip(GRID_COLUMNS, numbers, strict=True)
]

# --- Figures 7 and 8 ---
METHODS = {name: label for name, (label, *_) in PLUG_AND_PLAY.items()}
METHODS |= {"moco_v3": "MoCo-v3", "barlow_twins": "Barlow Twins", "vicreg": "VICReg"}
METHODS |= {"nnclr": "NNCLR", "w_mse": "W-MSE"}
FIGURE_7 = [
    {"label": label, "config": f"configs/resnet18.py:imagenet,{name}"}
    for name, label in {"ie_cl": "IE-CL", **METHODS}.items()
]
OVERHEAD = {"simclr": "12.3 %", "moco_v2": "under 10 %", "byol": "under 10 %"}
OVERHEAD |= {"simsiam": "under 10 %"}
FIGURE_8 = [
    row
    for name, label in METHODS.items()
    for row in (
        {"label": label, "config": f"configs/plug_and_play.py:{name}"},
        {
            "label": f"{label} + SAIB",
            "config": f"configs/plug_and_play.py:{name}+saib",
            "published": OVERHEAD.get(name),
            "compared_with": label,
        },
    )
]
# Scale -> how many rounds are timed, and steps per round.
TIMING = {
    "smoke": {"rounds": 3, "steps": 1},
    "small": {"rounds": 7, "steps": 3},
    "paper": {"rounds": 9, "steps": 20},
}

TABLES: dict[str, dict[str, Any]] = {
    "1": {
        "title": "Table 1: ImageNet with ResNet-50",
        "source": f"ImageNet-1k, ResNet-50, 100 to 800 epochs, {LINEAR}",
        "kind": "grid",
        "corner": ("method", "epochs"),
        "rows": TABLE_1,
        "notes": NOTES_1,
    },
    "2a": {
        "title": "Table 2a: four data sets with ResNet-18",
        "source": "ResNet-18, batch 256, 1000 epochs of CIFAR-10, CIFAR-100 and STL-10 and 300 of "
        f"ImageNet-1k, {LINEAR}",
        "kind": "grid",
        "corner": ("method", "data set"),
        "rows": TABLE_2A,
        "notes": NOTES_2A,
    },
    "2b": {
        "title": "Table 2b: segmentation and detection on PASCAL VOC",
        "source": "VOC 2012, ResNet-50; mIoU of DeepLabv3, mAP of Faster R-CNN",
        "kind": "accuracy",
        "metrics": {"miou": "mIoU, %", "map": "mAP, %"},
        "evaluations": dict.fromkeys(
            SCALES, ("configs/voc_segmentation.py", "configs/voc_detection.py")
        ),
        "flags": {
            "smoke": ENCODER_2B,
            "small": [*ENCODER_2B, "--config.data.image_size=64"],
        },
        "rows": TABLE_2B,
        "notes": NOTES_2B,
    },
    "3": {
        "title": "Table 3: what each component of IE-CL adds",
        "source": f"ImageNet-1k, ResNet-18, batch 256, 300 epochs, {LINEAR}",
        "kind": "accuracy",
        "change": "change from the baseline",
        "rows": TABLE_3,
    },
    "4": {
        "title": "Table 4: SAIBs in a row",
        "source": f"ImageNet-1k, ResNet-18, batch 256, 300 epochs, {LINEAR}",
        "kind": "accuracy",
        "change": "change from one SAIB",
        "rows": TABLE_4,
    },
    "5": {
        "title": "Table 5: SAIB plugged into other methods",
        "source": f"ImageNet-100, backbone not named, batch 256, 200 epochs, {LINEAR}",
        "kind": "accuracy",
        "change": "SAIB's change",
        "rows": TABLE_5,
    },
    "fig3": {
        "title": "Fig. 3: one operator on the query and one on the anchor",
        "source": f"ImageNet-100, 100 epochs, {LINEAR}",
        "kind": "grid",
        "corner": ("query", "anchor"),
        "averages": True,
        "rows": FIGURE_3,
    },
    "fig7": {
        "title": "Fig. 7: time of an epoch",
        "source": "ImageNet-1k, ResNet-50, batch 256, mixed precision on 8 V100, bars without "
        "numbers",
        "kind": "time",
        "images": {"smoke": 256, "small": 50_000, "paper": 1_281_167},
        "flags": {"paper": ["--config.encoder.name=resnet50", "--config.train.precision=float16"]},
        "timing": TIMING,
        "rows": FIGURE_7,
    },
    "fig8": {
        "title": "Fig. 8: what SAIB costs each method",
        "source": "time of training with SAIB over that without, 8 V100; 8.8 % on average",
        "kind": "time",
        "timing": TIMING,
        "rows": FIGURE_8,
    },
}
