"""Chat templates render as transformers renders them, and one that would take the machine is one line."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from datetime import datetime

import pytest
from transformers.utils import chat_template_utils

from cann_jax.data import chat_templates
from cann_jax.data.chat_templates import PROGRAM, render
from cann_jax.files.errors import InputError
from tests.builders.limits import refuse_to_limit_memory
from tests.builders.models import CHAT_TEMPLATE

DAY = "2025-01-31"
MESSAGES = [{"role": role, "content": f" {role}'s <é> \ud83d "} for role in ("system", "user", "assistant")]
VALUES = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
# By what they use: every part of Jinja and of transformers' environment that known models' templates use.
TEMPLATES = {
    "ours": CHAT_TEMPLATE,
    "blocks": "\n  {%- if messages[0]['role'] == 'system' %}\n  S{{ messages[0].content }}\n  {% endif %}X\n",
    "loop controls": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
    "{{ m.role }}{% break %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% set ns.n = 1 + ns.n %}{% endfor %}{{ ns.n }}",
    "json": "{{ messages | tojson(indent=2) }}{{ {'b': '<é>', 'a': 1} | tojson(sort_keys=true) }}",
    "generation": "{% set x = 1 %}{% generation %}{% set x = 2 %}"
    "{{ messages[2].role }}{% endgeneration %}{{ x }}",
    "macro": "{% macro turn(m) %}<{{ m.role|upper }}>{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}",
    "nothing given": "{{ tools is none }}{{ documents is none }}{{ thinking is defined }}{{ other }}",
    "date": "{{ strftime_now('%d %b %Y, %-d %B %A %H:%M') }}",
    "texts": "{{ messages[1].content.strip().split('s')[-1] + bos_token }}{{ dict(a=1) }}{{ range(3)|list }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_as_transformers(name, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat(DAY)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    chat_template_utils._compile_jinja_template.cache_clear()
    theirs, _ = chat_template_utils.render_jinja_template([MESSAGES], chat_template=TEMPLATES[name], **VALUES)
    assert [render(TEMPLATES[name], MESSAGES, VALUES, DAY)] == theirs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_renderer_that_a_signal_ended_is_started_again(number):
    """A job's signal reaches every process of it, and the template is not to blame."""
    first = render(TEMPLATES["ours"], MESSAGES, VALUES, DAY)
    process = chat_templates._renderer._process
    process.send_signal(number)
    process.wait()
    assert render(TEMPLATES["ours"], MESSAGES, VALUES, DAY) == first


def test_a_system_that_limits_no_memory(tmp_path, monkeypatch):
    """On macOS every template took too much of it; the limit of time holds there."""
    refuse_to_limit_memory(tmp_path, monkeypatch)
    monkeypatch.setattr(chat_templates, "_renderer", chat_templates._Renderer())
    assert render(TEMPLATES["ours"], MESSAGES, VALUES, DAY)
    with pytest.raises(InputError, match="it takes too long"):
        render(LOOP, MESSAGES, VALUES, DAY)


MUCH = "it takes too (much memory|long)"  # what comes first, where memory is filled in pieces
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    LOOP: "it takes too long",
    "{{ 10 ** (10 ** 8) }}": "it takes too long",  # in C, where no signal of Python's is heard
    "{{ 'a' * (200 * 2 ** 20) }}": "it takes too much memory",
    "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}": MUCH,
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}": MUCH,
    "{{ '%999999999d' % 1 }}": "it takes too much memory",
    "{{ 'x' | center(10 ** 9) }}": "it takes too much memory",
    "{% for i in range(10 ** 5) %}{{ i }}{% endfor %}": "it writes 488890 characters, and 26",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}": "maximum recursion depth exceeded",
    "{{ " + "(" * 9999 + ")" * 9999 + " }}": "maximum recursion depth exceeded",
    "{{ ''.__class__.__mro__ }}": "is unsafe",
    "{% include '/etc/passwd' %}": "no loader",
    "x" * (1 << 21): "no text of at most 1048576 characters",
}


@pytest.mark.parametrize("template", HOSTILE)
def test_hostile(template):
    with pytest.raises(InputError, match=HOSTILE[template]) as error:
        render(template, MESSAGES, VALUES, DAY)
    assert len(str(error.value)) < 300


def test_the_next_dialogue_is_rendered():
    for template in (LOOP, "{{ messages[1].role }}"):
        with contextlib.suppress(InputError):
            said = render(template, MESSAGES, VALUES, DAY)
    assert said == "user"


def test_hostile_templates_take_less_than_a_second():
    """What the kernel counted for a process, as it ended: some end themselves, others at the end of input."""
    for template in HOSTILE:
        request = {"template": template, "day": DAY, "longest": 100, "values": {"messages": MESSAGES}}
        process = subprocess.Popen(
            [sys.executable, "-P", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
        _, process.returncode, used = os.wait4(process.pid, 0)
        assert used.ru_utime + used.ru_stime < 1, template
