"""The report of a run: what it holds, what it says of missing parts, that it needs nothing else."""

import base64
import html.parser
import io
import json
import re
import shutil

import numpy as np
import pytest
from event_files import STEPS, TAGS, write_curves, write_json
from PIL import Image

from iecl_jax.config import own_files
from iecl_jax.configs import imagenet_r50
from iecl_jax.tools.figures import chart, page, report, sections

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own
CONFIG = json.loads(imagenet_r50.get_config("100,smoke").to_json())
HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=y>&\"'\ud800"


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced; gathers the text, the tags and the attributes of a page."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.attributes, self._open = [], [], [], []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in self.VOID and not self.get_starttag_text().endswith("/>"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open[-1:] == [tag]:
            self._open.pop()
        else:
            assert self.get_starttag_text().endswith("/>"), (tag, self._open)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(workdir):
    return Page(report.write(workdir).read_text())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_json(path, CONFIG)
    write_curves(path)
    return path


def test_the_report_holds_what_the_run_left(workdir, capsys):
    report.main([f"--workdir={workdir}"])
    assert capsys.readouterr().out == f"{workdir / 'report.html'}\n"
    text = read(workdir).text
    for words in (
        "IE-CL on generated",
        "paper variant, groups of 4, patches of 4 px, 1 in a row",
        "batches of 16, sgd, float32",
        "0:01:01 h, 123 images/s",
        "jax 1.2.3",
        "0123abcd, with changes",
        "python -m iecl_jax.main --config=configs/quickstart.py",
        "kNN, top-1 93.75",
        "raw pixels 87.5 ± 1.2 62.5",
        '"temperature": 0.2',
        "Step 30. Singular values",
        "Spectral norm of each of 1 convolutions at the end",
    ):
        assert words in text, words
    assert "absent" not in text  # a package that is not installed
    assert "Not measured" not in text
    assert "Not in the log of the run" not in text
    assert not list(workdir.glob(".*"))


def test_every_curve_is_drawn_once(workdir):
    parsed = read(workdir)
    headings = {p.title for s in sections.SECTIONS for p in s.panels} - {"Decay of SAIB"}
    headings -= {"On training batches"}
    headings |= {"train/images_per_second", "train/info_nce"}
    drawn = [value for tag, name, value in parsed.attributes if name == "aria-label"]
    assert sorted(drawn) == sorted(headings)
    for number, tag in enumerate(TAGS):
        if tag.split("/")[1] not in ("epoch", "log_det_stderr"):
            last = np.float32(0.5 + number + STEPS[-1] / 100)
            percent = tag.startswith("eval/")
            assert chart.number_text(100 * last if percent else last) in parsed.text, tag


def test_pictures_are_within_the_page(workdir):
    sources = [
        value for tag, name, value in read(workdir).attributes if (tag, name) == ("img", "src")
    ]
    assert len(sources) == 2
    greys = []
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            greys.append(picture.getpixel((0, 0))[0])
    assert sorted(greys) == [100, 200]


def test_the_page_loads_nothing(workdir):
    text = (report.write(workdir)).read_text()
    parsed = Page(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(parsed.tags)
    outside = [
        (tag, name)
        for tag, name, value in parsed.attributes
        if name in ("src", "href", "srcset", "xlink:href") and not value.startswith("data:")
    ]
    assert not outside
    without_data = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|url\(|@import|//", without_data)
    assert "default-src 'none'" in text


def test_hostile_strings_are_shown_and_not_obeyed(workdir, tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["data"]["name"] = config["method"]["name"] = config["encoder"]["name"] = HOSTILE
    config[HOSTILE] = HOSTILE
    write_json(tmp_path, config)
    results = json.loads((tmp_path / "results.json").read_text())
    results["metrics"] |= {HOSTILE: HOSTILE}
    results["metrics"]["comparison"] = {HOSTILE: results["metrics"]["comparison"]["raw pixels"]}
    results["versions"] = {HOSTILE: HOSTILE}
    (tmp_path / "results.json").write_text(json.dumps(results))
    provenance = [{"command": [HOSTILE], "time": HOSTILE, "git": {"revision": HOSTILE}}]
    (tmp_path / "provenance.json").write_text(json.dumps(provenance))
    write_curves(tmp_path, [f"train/{HOSTILE[:-1]}", f"conv_matrix_norm/{HOSTILE[:-1]}"])
    parsed = read(tmp_path)
    assert "script" not in parsed.tags
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert parsed.text.count("<script>alert('x')</script>") >= 8
    assert "A part is left out" not in parsed.text


@pytest.mark.parametrize("missing", ["config", "provenance", "results", "events"])
@pytest.mark.parametrize("how", ["absent", "damaged", "of another kind"])
def test_a_missing_part_is_named_and_the_others_are_there(workdir, tmp_path, missing, how):
    for path in (*workdir.glob("*.json"), *workdir.glob("events.*")):
        if not path.name.startswith(missing):
            shutil.copy(path, tmp_path)
        elif how != "absent":
            content = '{"half' if how == "damaged" else "[1]" if missing != "provenance" else "{}"
            (tmp_path / path.name).write_text(content)
    text = read(tmp_path).text
    sentence = {
        "config": "No config.json.",
        "provenance": "No provenance.json.",
        "results": "No results.json: not finished.",
        "events": "No curves and no pictures" if how == "absent" else "Not in the log of the run.",
    }[missing]
    assert sentence in text
    assert "A part is left out" not in text
    for name, words in {
        "config": '"temperature": 0.2',
        "provenance": "0123abcd",
        "results": "93.75",
        "events": "RankMe 18.8",
    }.items():
        assert (words in text) == (name != missing), name


def test_an_empty_folder_has_a_report(tmp_path, capsys):
    assert "No results.json" in read(tmp_path).text
    with pytest.raises(SystemExit):
        report.main([f"--workdir={tmp_path}"])
    assert "is not the workdir of a run: it has no config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"saib": {"enabled": False}}, "this run has saib.enabled=False."),
        ({"diagnostics": {"every_steps": 0}}, "this run has diagnostics.every_steps=0."),
    ],
)
def test_what_was_not_measured_says_why(tmp_path, change, reason):
    config = CONFIG | {key: CONFIG[key] | value for key, value in change.items()}
    write_json(tmp_path, config)
    write_curves(tmp_path, ["train/loss"])
    assert f"Not measured: {reason}" in read(tmp_path).text


def test_a_part_that_fails_leaves_the_others(workdir, monkeypatch):
    monkeypatch.setattr(report, "_gallery", lambda run: 1 / 0)
    text = read(workdir).text
    assert "A part is left out: ZeroDivisionError" in text
    assert "RankMe 18.8" in text


def test_no_code_that_a_run_names_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(own_files, "_trusts_checkpoints", False)
    code = tmp_path / "own.py"
    code.write_text("raise SystemExit('this code ran')")
    write_json(tmp_path, CONFIG | {"eval": CONFIG["eval"] | {"names": ["knn", str(code)]}})
    text = read(tmp_path).text
    assert "kNN, top-1 93.75" in text
    assert "A part is left out" not in text


def test_odd_results_do_not_stop_it(tmp_path):
    write_json(tmp_path, {"saib": 3, "train": None, "data": []})
    results = {"metrics": {"knn_top1": None, "comparison": {"a": {}}, "list": [1, "x"]}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "provenance.json").write_text("[3]")
    text = read(tmp_path).text
    assert "kNN, top-1 n/a" in text
    assert "A part is left out" not in text


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_paper(theme):
    colours = dict(re.findall(r"--(\w+):(#\w{6});", page._variables(theme)))

    def contrast(name):
        high, low = sorted((luminance(colours[name]), luminance(colours["paper"])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert min(contrast("ink"), contrast("muted")) > 4.5
    assert min(contrast(f"l{number}") for number in range(4)) > 2.5
