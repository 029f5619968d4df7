"""The page of the pipeline shows the table that the program runs by."""

from tests.docs.pipeline_page import COMMAND, PAGE, pipeline_page


def test_page_is_the_rendered_table():
    text = PAGE.read_text(encoding="utf-8")
    assert text == pipeline_page(), f"docs/pipeline.md is out of date; run {COMMAND}"
