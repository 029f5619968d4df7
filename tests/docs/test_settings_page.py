"""The page of the settings shows the dataclasses that commands parse by."""

from tests.docs.settings_page import COMMAND, PAGE, settings_page


def test_page_is_the_rendered_settings():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), f"{PAGE.name} is out of date; run {COMMAND}"
