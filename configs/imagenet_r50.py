"""IE-CL on ImageNet with ResNet-50: Table 1 of the paper.

    python -m iecl_jax.main --config=configs/imagenet_r50.py:100

The argument is the number of epochs: 100, 200, 400 or 800. Published linear top-1 (not measured
here): 68.3, 70.9, 71.7 and 73.2 %. `:100,smoke` runs a few steps of a tiny version on generated
images, `:100,small` a version for two CPU cores on CIFAR-10. Every other pretraining config starts
from this one, so this file is the list of all settings, their units and their defaults;
configs/methods.py has those of the other methods.
"""

import ml_collections

from configs import common

EPOCHS = (100, 200, 400, 800)


def get_config(arg: str = "100") -> ml_collections.ConfigDict:
    variant, scale = common.parse_arg(
        arg, default="100", choices=[str(n) for n in EPOCHS], scales=common.SCALES
    )
    config = ml_collections.ConfigDict()
    config.job = "pretrain"  # pretrain | linear_probe | knn | jacobian
    config.seed = 42  # of the parameters, the data order and every augmentation

    config.data = data = ml_collections.ConfigDict()
    # imagenet2012 | imagenet100 | cifar10 | cifar100 | stl10 | digits | image_folder | generated
    data.name = "imagenet2012"
    data.dir = ""  # of TFDS ("" = ~/tensorflow_datasets), or the folder of an image_folder
    data.image_size = 224  # pixels, side of each view
    data.cache = "none"  # none | host | device: where decoded uint8 images are kept
    data.num_threads = 16  # decoding threads of each process
    data.prefetch = 2  # batches decoded, and batches put on the device, ahead of the step

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 256  # images of a step, over all devices
    train.num_epochs = int(variant)
    train.num_steps = 0  # wins over num_epochs when set
    train.precision = "float32"  # float32 | bfloat16 | float16 (with dynamic loss scaling)
    # Steps in one call of the device, at most: a call ends where something is logged, evaluated,
    # measured or saved. More than 1 helps where a step takes a few milliseconds.
    train.steps_per_call = 1
    train.log_every_steps = 100

    config.method = method = ml_collections.ConfigDict()  # its keys are those of the method
    method.name = "moco_v2"  # a file of iecl_jax/methods, or the path of a .py file like them
    method.temperature = 0.2
    method.symmetric = False  # True adds ctr(q_query', k_anchor)
    method.queue_size = 0  # earlier keys as negatives; 0 = the keys of the batch instead
    method.running_stats = "anchor"  # passes that move Q's running BN statistics: anchor | both
    method.ema = ema = ml_collections.ConfigDict()
    ema.schedule = "constant"  # constant at `start` | cosine from `start` to `end`
    ema.start = 0.9
    ema.end = 1.0

    config.encoder = encoder = ml_collections.ConfigDict()
    encoder.name = "resnet50"  # resnet10 | resnet18 | resnet34 | resnet50 | resnet101
    encoder.stem = "imagenet"  # imagenet: 7x7 stride 2 and max-pool | cifar: 3x3 stride 1
    encoder.width = 64  # channels of the first stage
    encoder.feature_dim = 0  # 256 puts a linear layer after pooling; 0 = native width
    encoder.spectral_norm = True  # every convolution is divided by its largest singular value
    encoder.bn_group = 0  # images that share BN statistics; 0 = the global batch
    encoder.remat = False  # True: less memory, a third more work (blocks are computed twice)
    encoder.zero_init_residual = False  # start each residual branch's last BN scale at 0

    config.projector = projector = ml_collections.ConfigDict()
    projector.num_layers = 3
    projector.hidden_dim = 4096
    projector.output_dim = 512
    projector.hidden_bn = True
    projector.output_bn = True  # BN without scale and bias after the last layer

    config.saib = saib = ml_collections.ConfigDict()
    saib.enabled = True
    saib.side = "query"  # the view that passes through it: query | anchor | both
    # paper | expansive: tied weights, J = I + W'DW, so that log|det J| >= 0 by construction
    saib.variant = "paper"
    saib.num_blocks = 1  # cascaded SAIBs (Table 4)
    saib.group_size = 32  # images that are mixed: the channels of SAIB's convolutions
    saib.patch_size = 16  # pixels
    saib.inner_skip = True  # P' = P + (a + f(a)); False: P' = P + f(a)
    saib.residual_scale = 1.0  # initial scale of f's last BN; expansive: of E[W'W]

    config.objective = objective = ml_collections.ConfigDict()
    objective.kl = kl = ml_collections.ConfigDict()
    kl.weight = 0.09  # beta of Eq. 17
    kl.form = "closed"  # closed | eq16 | softmax
    # query: no gradient into the view of SAIB (Algorithm 1) | anchor: into that one alone | none
    kl.stop_gradient = "query"
    objective.entropy = entropy = ml_collections.ConfigDict()
    entropy.weight = 0.2  # lambda of Eq. 17
    entropy.estimator = "coding_rate"  # also gaussian_diagonal, kozachenko_leonenko, renyi2
    entropy.epsilon = 0.5  # distortion of coding_rate
    entropy.neighbors = 1  # k of kozachenko_leonenko
    entropy.kernel_scale = 2.0  # t of renyi2
    objective.saib_decay = 1e-4  # gamma of Eq. 17: weight of half SAIB's squared kernel norm

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"  # sgd | adam | adamw (the paper's words) | lars
    optimizer.learning_rate = 0.3  # at batch 256; scaled by batch / 256
    optimizer.momentum = 0.9  # of sgd and lars; b1 of adam and adamw
    optimizer.trust_coefficient = 0.001  # of lars
    optimizer.trust_clip = False  # lars: no layer's rate is above the learning rate
    optimizer.weight_decay = 1e-5  # of encoder and projector kernels, not of BN or biases
    optimizer.predictor_schedule = "cosine"  # constant: a predictor keeps the peak rate (SimSiam)
    optimizer.probe_learning_rate = 0.1  # of the online linear probe, not scaled

    config.schedule = schedule = ml_collections.ConfigDict()
    schedule.warmup_epochs = 10.0  # linear from 0; then cosine to 0

    config.augment = common.mocov2_augment()

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.every_epochs = 10  # kNN, online-probe test accuracy and gallery; 0 = only at the end
    evaluation.batch_size = 256
    evaluation.knn_k = 20  # neighbours
    evaluation.knn_temperature = 0.07  # weights are exp(cosine / temperature)
    # epochs of a linear classifier on the features of the last step (linear_top1); 0 = none
    evaluation.linear_epochs = 0
    # labels a class of the final comparison with raw pixels and an untrained encoder; 0 = none
    evaluation.labels_per_class = 0

    config.diagnostics = diagnostics = ml_collections.ConfigDict()
    diagnostics.every_steps = 100  # 0 = never
    diagnostics.num_images = 256  # at most, whose embeddings are measured, always the same ones
    diagnostics.lanczos_depth = 32  # Lanczos steps for log|det J| of SAIB on a group of images
    diagnostics.lanczos_probes = 4  # random vectors it is averaged over
    # Collapse is reported below these lines; 0 = no line.
    diagnostics.min_rank = 2.0  # RankMe of the pooled features, from 1
    diagnostics.min_feature_std = 0.05  # of the pooled features, 0 to 1
    diagnostics.stop_on_collapse = False  # save and stop instead of a warning

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 1000
    checkpoint.keep = 2  # newest kept
    checkpoint.keep_every_steps = 0  # those of multiples of this are kept too; 0 = none
    checkpoint.keep_best = 1  # best by kNN top-1 kept besides; 0 = none

    return common.at_scale(config, scale)
