"""What is made of records: what is bold, the plots, and a page that needs nothing but itself."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from PIL import Image

from tests.evaluation.studies.conftest import made_up, score
from visgen.evaluation.numbers import signed
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.studies.cells import Cell
from visgen.evaluation.studies.folder import FAILED, StudyFolder
from visgen.evaluation.studies.plots import draw_plots
from visgen.evaluation.studies.running import Outcome, run_study
from visgen.evaluation.studies.study import load_study
from visgen.evaluation.studies.table import Table, cost_text, score_text, tables
from visgen.evaluation.studies.writing import write_report

pytestmark = pytest.mark.filterwarnings("ignore:FID of")
NETWORK = re.compile(r'(src|href)="(https?:)?//|@import|url\(["\']?http|<script|<link', re.IGNORECASE)


class Page(HTMLParser):
    """Links, images and bold cells of a page, and whether its tags close."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.images, self.open, self.best, self.text = [], [], [], [], []
        self._in_best = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found[name] for name in ("href", "xlink:href") if tag == "a" and name in found]
        self.images += [found["src"]] if tag == "img" else []
        self._in_best |= found.get("class") == "best"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "td":
            self._in_best = False

    def handle_data(self, data):
        self.text.append(data)
        if self._in_best and data.strip():
            self.best.append(data.strip())


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    """The report of the finished study, a failed cell added to it."""
    place = tmp_path_factory.mktemp("report") / "study"
    shutil.copytree(finished.place, place)
    study = load_study(
        {"title": "A toy <study>", "output": str(place), "generate": [{"model": "a"}], "about": "Why & how."}
    )
    reason = {"reason": "no <model>", "status": FAILED}
    broken = made_up("broken", **reason)
    cells = [*finished.outcome.cells, cell_of("broken"), cell_of("never-run")]
    outcome = Outcome(cells, finished.outcome.records | {"broken": broken})
    with StudyFolder(place) as folder:
        path = write_report(study, outcome, folder, "visgen compare it.yaml 'a=<b>'")
    return finished, path


def cell_of(name):
    return Cell("generate", name, name, "m", {}, EvaluationOptions())


def test_the_page_needs_nothing_and_links_to_every_record(written):
    run, path = written
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and not NETWORK.search(text)
    assert len(page.images) == 2 * 2 + 2 * 2  # two generators' samples; originals and reconstructions
    assert all(source.startswith("data:image/png;base64,") for source in page.images)
    names = {f"cells/{record['cell']['name']}.json" for record in run.outcome.records.values()}
    assert names <= set(page.links)
    for link in set(page.links) - {"cells/broken.json"}:
        assert (path.parent / unquote(link)).exists(), link


def test_the_page_holds_every_figure(written):
    run, path = written
    text = " ".join(Page(path.read_text(encoding="utf-8")).text)
    for record in run.outcome.records.values():
        for metric, entry in record["metrics"].items():
            for part in score_text(metric, entry) if metric != "tokens" else ():
                assert part in text, (record["cell"]["name"], metric)
        assert cost_text("seconds_per_image", record["cost"]["seconds_per_image"]) in text
        assert record["subject"]["checkpoint_sha256"] in text
    assert "visgen compare it.yaml" in text and record["versions"]["torch"] in text


def test_the_page_says_what_is_missing_and_escapes_what_it_quotes(written):
    _, path = written
    text = path.read_text(encoding="utf-8")
    assert "no &lt;model&gt;" in text and "<model>" not in text
    assert "A toy &lt;study&gt;" in text and "never-run has not been run" in text and "a=&lt;b&gt;" in text


def test_files_beside_the_page(written):
    _, path = written
    plots = {p.name for p in (path.parent / "plots").iterdir()}
    drawn = {f"{name}.{suffix}" for name in ("fid", "reconstruction") for suffix in ("svg", "png")}
    assert plots == drawn | {"samples-generate.png", "samples-reconstruct.png"}
    assert (path.parent / "table.csv").read_text().count("\n") == 1 + 5
    with Image.open(path.parent / "plots/samples-reconstruct.png") as picture:
        assert picture.size == (2 * 16 + 2, 2 * 16 + 2)


def test_points_of_a_plot_link_to_their_records(written):
    run, path = written
    root = ElementTree.fromstring((path.parent / "plots/fid.svg").read_text())
    links = {e.get("{http://www.w3.org/1999/xlink}href") for e in root.iter("{http://www.w3.org/2000/svg}a")}
    drawn = [r for r in run.outcome.records.values() if r["cell"]["kind"] == "generate"]
    assert links == {f"cells/{record['cell']['name']}.json" for record in drawn}


def group(*intervals, higher=False, metric="fid"):
    records = [
        made_up(f"c{i}", metrics={metric: score(value, low, high, higher)})
        for i, (low, value, high) in enumerate(intervals)
    ]
    return Table("generate", tuple(records))


def test_bold_is_the_best_whose_interval_is_clear_of_all_others():
    assert group((4, 5, 6), (7, 8, 9)).clear_best("fid")["cell"]["name"] == "c0"
    assert group((4, 5, 6), (5.5, 8, 9)).clear_best("fid") is None
    assert group((4, 5, 6), (7, 8, 9), higher=True).clear_best("fid")["cell"]["name"] == "c1"
    assert group((4, 5, 6), (None, 8, None)).clear_best("fid") is None
    assert group((4, 5, 6)).clear_best("fid") is None
    # the third is far from the second in value, and its interval reaches the best
    assert group((4, 5, 6), (7, 8, 9), (5, 20, 40)).clear_best("fid") is None


def test_the_best_is_named_with_those_it_cannot_be_told_from():
    table = group((4, 5, 6), (5.5, 8, 9), (30, 31, 32))
    assert [one["cell"]["name"] for one in table.ranked("fid")] == ["c0", "c1", "c2"]
    assert [one["cell"]["name"] for one in table.rivals("fid")] == ["c1"]


def test_what_cannot_be_compared_stands_in_tables_of_its_own():
    records = [made_up("a"), made_up("b", count=50), made_up("c", "reconstruct"), made_up("d")]
    outcome = Outcome(
        [Cell(r["cell"]["kind"], r["cell"]["name"], "", "m", {}, EvaluationOptions()) for r in records],
        {r["cell"]["name"]: r for r in records},
    )
    found = tables(outcome)
    assert [[r["cell"]["name"] for r in table.records] for table in found] == [["a", "d"], ["b"], ["c"]]
    assert [table.suffix for table in found] == ["", "-2", ""]
    assert [plot.name for plot in draw_plots(found[:2])] == ["fid", "fid-2"]


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("fid", 1.5, "+1.5"), ("adherence", -0.062, "−6.2 points"), ("psnr", 0.001, "0.00"), ("fid", 0.0, "0")],
)
def test_differences_have_signs(metric, value, text):
    assert signed(metric, value) == text


def test_costs_for_people():
    texts = [cost_text("nfe", 21.5), cost_text("nfe", 64.0), cost_text("seconds_per_image", 0.01234)]
    assert [*texts, cost_text("nfe", None)] == ["21.5", "64", "0.0123", "–"]


def test_strategies_stand_beside_their_models_first_cell(study_mapping, tmp_path):
    text = study_mapping["generate"][0]["model"][0]
    study = load_study(study_mapping | {"generate": [{"model": text, "top_k": [None, 1]}], "reconstruct": []})
    with StudyFolder(study.output) as folder:
        folder.replace("study.yaml", b"")
        outcome = run_study(study, folder, lambda line: None)
        page = write_report(study, outcome, folder, "visgen").read_text(encoding="utf-8")
    assert "What a strategy or an option changes" in page
    assert re.search(f">beside <a [^>]*>{text}</a>", page) and page.count("speed</th>") == 1
    assert page.count(" ×</td>") == 1
