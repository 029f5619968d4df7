"""report.html: whole without a network, safe with hostile texts, and there for whatever a run has left."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from cann_jax import train
from cann_jax.command_line.run_options import Options, parse_run
from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from cann_jax.files.errors import InfeasibleError
from cann_jax.report import main
from cann_jax.reporting.advice import _beyond, terms_of
from cann_jax.reporting.findings import Findings
from cann_jax.reporting.finished_run import finished_run
from cann_jax.reporting.multipliers import multiplier_lines
from cann_jax.reporting.page import page
from cann_jax.run.folder import versions
from cann_jax.run.manifest import begin, expectation
from cann_jax.run.results import asked_change, verdict_lines, verdicts
from cann_jax.run.run import Run
from tests.reporting.conftest import CERTIFICATE, DUAL, HOSTILE, RESULTS, ROW

VOID = {"meta", "link", "input", "br"}


@pytest.mark.parametrize("share, words", [(0.95, "95%"), (0.975, "97.5%"), (0.995, "99.5%"), (0.29, "29%")])
def test_a_confidence_keeps_its_digits(share, words):
    found = {"verdict": "holds", "confidence": share}
    row = {"goal": "margin", "asked": 0.5, **ROW, "certificate": CERTIFICATE}
    results = RESULTS | {"safe": row, "kind": row, "summary": RESULTS["summary"] | found}
    assert verdicts(results)[-1].text == f"all constraints together, at {words}: HOLDS"


class Elements(HTMLParser):
    """Collects elements with their attributes and, of each, the text up to its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append((tag, self.all[-1][2]))

    def handle_startendtag(self, tag, attrs):
        self.all.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, texts in self.open:
            texts.append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(texts) for name, _, texts in self.all if name == tag]

    def values(self, *keys: str) -> list[str]:
        return [attrs[key] for _, attrs, _ in self.all for key in keys if attrs.get(key) is not None]


def elements(folder) -> Elements:
    main([str(folder)])
    return Elements((folder / "report.html").read_text())


def test_it_is_whole_accessible_and_escaped(folder):
    found = elements(folder)
    ids = found.values("id")
    assert len(set(ids)) == len(ids)
    local = [value for value in found.values("href", "src") if not value.startswith(("#", "data:"))]
    assert local and all((folder / value).exists() for value in local)
    named = [value.partition("#")[2] for value in found.values("href", "aria-labelledby") if "#" in value]
    assert {*named, *found.values("aria-labelledby")} - {""} <= set(ids)
    styles = " ".join(found.texts("style"))
    assert "url(" not in styles and "@import" not in styles
    assert len(found.texts("script")) == 1  # its own; those of a sample are text
    assert not any(name in ("img", "iframe", "object") for name, _, _ in found.all)
    assert not any(key.startswith("on") for _, attrs, _ in found.all for key in attrs)
    assert found.texts("h3").count(HOSTILE) == 1 and HOSTILE in found.texts("option")
    assert sum(HOSTILE in text for text in found.texts("figcaption")) == 2  # a group's, of two scores
    assert any("bootstrap over prompts, at 99.5%." in " ".join(text.split()) for text in found.texts("p"))
    assert len(found.texts("h1")) == 1 and found.texts("title")[0] == "trial: undecided"
    charts = [attrs for name, attrs, _ in found.all if name == "svg" and attrs.get("role") == "img"]
    assert len(charts) == len(found.texts("figure")) > 8
    assert len(found.texts("table")) == len(found.texts("caption"))


def test_the_verdict_comes_first_with_what_to_do_and_the_price(folder):
    found = elements(folder)
    verdict = "safe: UNDECIDED. Asked +0.500, measured +0.600 [+0.500, +0.700] on 2 unseen prompts"
    assert found.texts("p")[0].strip() == verdict
    assert found.texts("small") == [
        "certificate: one-sided bounds: lower +0.480, upper none · reward +0.600 [+0.500, +0.700] · KL 0.300 "
        "nats a response"
    ]
    assert found.texts("th")[:6] == [
        *("score", "asked", "measured", "interval", "predicted at scale 1", "before → after")
    ]
    lines = found.texts("li")
    assert lines[0] == (
        "safe: evaluate on about 9 held-out prompts instead of 2 (prompts.heldout); at this estimate they "
        "would decide that it holds."
    )
    assert "λ* of safe, on the scores: 1.2 [1, inf]" in lines
    assert "attainable λ of safe, by what the model can tell: 1.5 [1.1, 1.9]; the run takes 1.5" in lines
    assert any("every further 0.05 of safe costs about 0.075 of E[reward] − β·KL" in line for line in lines)
    rows = [text.strip() for text in found.texts("tr")]
    assert "reward" + "all prompts" + "3" + "0.875" + "1.375" + "+0.500" + "[+0.500, +0.500]" in rows
    assert "safe" + "plain" + "1" + "0.500" + "1.000" + "+0.500" + "[+0.500, +0.500]" in rows
    assert "3" + "0.6" + "–" in rows  # the third step's loss; nothing was measured on kept prompts then
    assert any("after step 2 of 4" in text for text in found.texts("p"))


@pytest.mark.parametrize(
    "there, state, step",
    [
        ((), "NOT EVALUATED", "sample, score, dual, align, evaluate, export are still to run"),
        (("dual",), "NOT EVALUATED", "sample, score, align, evaluate, export are still to run"),
        (("align",), "NOT EVALUATED", "sample, score, dual, evaluate, export are still to run"),
        (("evaluate",), "UNDECIDED", "evaluate on about 9 held-out prompts"),
    ],
)
def test_a_run_of_some_stages_has_a_page_of_what_there_is(folder, capsys, there, state, step):
    for stage in {"dual", "align", "evaluate"} - {*there}:
        shutil.rmtree(folder / stage)
    found = elements(folder)
    assert found.texts("h1") == [f"trial: {state}"] and step in found.texts("li")[0]
    headings = " ".join(found.texts("h2"))
    assert ("trade-off" in headings, "Training" in headings, "Samples" in headings) == (
        "dual" in there,
        "align" in there,
        "evaluate" in there,
    )
    assert state in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    "old, new, current",
    [
        ('"confidence": 0.95', '"confidence": 0.85', []),
        ('"bootstrap": 2000', '"bootstrap": 9', ["dual", "align"]),
    ],
)
def test_results_by_earlier_settings_are_not_shown(folder, old, new, current):
    """A run of some stages after a change writes a report too; the other stages are of the old settings."""
    path = folder / "config.json"
    path.write_text(path.read_text().replace(old, new))
    config = from_mapping(RunConfig, json.loads(path.read_text()))
    findings = Findings(Run(config))
    assert list(findings.commits) == current and findings.results is None
    assert (findings.dual is None, findings.trainings == []) == (not current, not current)
    assert "not evaluated" in page(findings).lower()


def test_margins_out_of_reach_are_shown_by_a_dual_that_has_no_answer(folder):
    run = finished_run(str(folder))
    (stage,) = (stage for stage in run.stages if stage.name == "dual")
    begin(folder / "dual", expectation("dual", run.settings_of(stage), {}), keep_work=False)
    nowhere = {"multipliers": ["inf"], "feasible": "no", "by_constraint": {"safe": {}}, "attainable": None}
    nothing = {"by": "attainable", "multipliers": [None], "forecast": None}
    (folder / "dual" / "dual.json").write_text(json.dumps(DUAL | nowhere | {"chosen": nothing}))
    found = elements(folder)
    assert found.texts("h1") == ["trial: NOT EVALUATED"]  # what was evaluated read another dual
    assert found.texts("li")[0] == (
        "The margins are out of reach (safe asks +0.500, of +0.900 at most): lower the margin, and "
        "start train again."
    )
    assert "no finite price: the margin of safe cannot be reached on the sample" in found.texts("li")


def test_what_did_not_converge_is_not_said_to_be_out_of_reach(folder):
    run = finished_run(str(folder))
    (stage,) = (stage for stage in run.stages if stage.name == "dual")
    begin(folder / "dual", expectation("dual", run.settings_of(stage), {}), keep_work=False)
    for converged, step in (
        (False, "λ* was not found to tolerance: raise dual.beta"),
        (True, "Start train ag"),
    ):
        (folder / "dual" / "dual.json").write_text(json.dumps(DUAL | {"converged": converged}))
        assert elements(folder).texts("li")[0].startswith(step)


def test_a_multiplier_that_was_given_is_no_price():
    """--dual.multipliers '{safe: 0}' said that the reward alone meets the margin."""
    given = {"by": "given", "multipliers": [0.0], "forecast": None}
    lines = multiplier_lines(DUAL | {"chosen": given})
    assert lines[1].endswith("; the run takes 0") and "costs about 0.06 of" in lines[2]


def test_a_level_is_judged_by_the_mean_and_told_so():
    row = RESULTS["safe"] | {"goal": "at_least", "asked": 2.1, "certificate": CERTIFICATE}
    (said,) = verdict_lines(RESULTS | {"safe": row})
    assert said == "safe: UNDECIDED. Asked for a mean of at least 0.500, measured 0.600 on 2 unseen prompts"
    assert asked_change(row) == pytest.approx(0.5 - 0.1)  # what these prompts lack, not those of the training
    (said,) = verdict_lines(RESULTS | {"safe": row | {"goal": "max_unsafe"}})
    assert "Asked for at most 50.0% unsafe, measured 40.0%" in said


@pytest.mark.parametrize(
    "flags, step",
    [
        ([], "set rounds to 2"),
        (["--rounds", "3"], "set rounds to 4"),
        (
            ["--align.safety_offset", "1", "--align.loss", "dpo", "--align.labels", "scores"],
            "ask for more than it, or train on more prompts",
        ),
    ],
)
def test_only_what_can_be_set_is_advised(flags, step):
    config = parse_run(["--config", "quickstart", *flags])[0]
    assert step in _beyond(config, terms_of(config.constraints["relevance"]))


def test_train_writes_it_where_the_margins_are_out_of_reach(folder, monkeypatch, capsys):
    def refuse(run, stages, *, verify):
        raise InfeasibleError("above what this model can tell")

    monkeypatch.setattr("cann_jax.run.checks.run_checked_stages", refuse)
    monkeypatch.setattr("cann_jax.run.checks.check_stages", lambda run, stages: None)
    run = finished_run(str(folder))
    shutil.rmtree(folder / "evaluate")
    with pytest.raises(InfeasibleError):
        train._run(run, Options(run.stages))
    assert capsys.readouterr().out.splitlines()[-1] == "trial: NOT EVALUATED"
    assert "numpy" in (folder / "report.html").read_text()  # of the versions, recorded as the run starts


def test_what_stages_have_cost_is_shown_where_it_is_known(folder):
    findings = Findings(finished_run(str(folder)))
    spent = {"policy_rounds": 1, "generated_tokens": 1234, "training_flops": 2.5e12, "seconds": 61.4}
    findings.commits["align"] |= {"compute": spent}
    findings.results["summary"]["compute"] = spent | {"seconds": None}
    written = page(findings)
    rows = [" ".join(text.split()) for text in Elements(written).texts("tr")]
    assert any(row.startswith("align") and "ended 61 s 1,234 2.5e+12" in row for row in rows)
    assert "61\u00a0s" in written  # in one line
    assert any(row.startswith("score") and row.endswith("to be run – – –") for row in rows)
    text = " ".join(written.split())
    assert "1 training of a policy; 1,234 tokens drawn; 2.5e+12 training FLOPs; unknown seconds." in text


@pytest.mark.parametrize("few, said", [(12, ""), (2, "; the first 2, and the others on demand"), (0, None)])
def test_as_many_samples_are_shown_as_the_setting_says(folder, few, said):
    """It was "the first 12, and the others on demand", of 3 and of any setting."""
    run = finished_run(str(folder))
    run.config = replace(run.config, evaluate=replace(run.config.evaluate, examples=few))
    written = " ".join(page(Findings(run)).split())
    assert ("chosen evenly over the file" in written) == (said is not None)
    if said is not None:
        assert f"chosen evenly over the file{said}. All responses" in written
        assert f'<div id="sample-list" data-few="{few}">' in written


def test_the_versions_of_a_run_are_recorded():
    found = versions()
    assert found["jax"].count(".") >= 2 and found["devices"].split(" × ")[0].isdigit()


DRIVE = """<script>
const form = document.getElementById("filters").elements, shown = document.getElementById("shown");
const tell = [shown.textContent];
const more = document.getElementById("more");
const seen = () => document.querySelectorAll(".sample:not([hidden])").length;
tell.push(seen(), more.hidden, more.textContent); more.click(); tell.push(seen(), more.hidden);
const ask = (name, value) => {
  form[name].value = value;
  form[name].dispatchEvent(new Event("input", {bubbles: true}));
};
ask("search", "ALERT four"); tell.push(shown.textContent);
ask("search", "tell"); tell.push(shown.textContent);
ask("search", ""); ask("group", "plain"); tell.push(shown.textContent);
ask("group", ""); ask("order", "-1 0");
const button = document.getElementById("theme"); button.click(); button.click();
tell.push(button.hidden, button.textContent, document.documentElement.dataset.theme);
document.title = JSON.stringify(tell);
</script></body>"""


@pytest.fixture
def browser(tmp_path):
    """Open a page in a headless browser; return its document and what the console said."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here")

    def visit(path) -> tuple[str, list[str]]:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        own = f"--user-data-dir={tmp_path / 'browser'}"
        done = subprocess.run(
            [program, *flags, own, f"file://{path}"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return visit


def test_search_order_and_theme_work_in_a_browser_without_an_error(folder, browser):
    elements(folder)
    text = (folder / "report.html").read_text()
    assert 'data-few="12"' in text
    few = text.replace('data-few="12"', 'data-few="2"')
    (folder / "driven.html").write_text(few.replace("</body>", DRIVE))
    dom, said = browser(folder / "driven.html")
    assert not said
    told = json.loads(Elements(dom.partition("\n")[2] or dom).texts("title")[0])
    assert told[:6] == ["2 of 3 shown", 2, False, "Show all 3", 3, True]
    # What is looked for is found among those that are not shown, too.
    assert told[6:9] == ["0 of 0 shown, of 3 in all", *["1 of 1 shown, of 3 in all"] * 2]
    assert told[9:] == [False, "Theme: dark", "dark"]


FRAME = """<iframe id="phone" style="width: 390px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.getElementById("phone").contentDocument;
  page.querySelectorAll("details").forEach((each) => each.open = true);
  const cells = [...page.querySelectorAll(".stacks td")];
  const measured = page.querySelector("[data-label=measured]");
  const right = Math.max(...cells.map((each) => each.getBoundingClientRect().right));
  const label = page.defaultView.getComputedStyle(measured, "::before").content;
  document.title = JSON.stringify([right, page.documentElement.scrollWidth, label]);
}});
</script>"""


def test_on_a_phone_no_cell_lies_beyond_the_edge(folder, browser):
    """Measured, interval and before → after began 60 to 320 pixels to the right of it."""
    elements(folder)
    page = html.escape((folder / "report.html").read_text())
    (folder / "phone.html").write_text(f"<title></title>{FRAME.format(page=page)}")
    dom, said = browser(folder / "phone.html")
    right, width, label = json.loads(re.search(r"<title>(.*?)</title>", dom)[1])
    assert not said and right <= 390 and width <= 390 and label == '"measured"'
