"""The monitoring systems are extras: imported when they are asked for, and named where they are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_neither_the_library_nor_the_worker_command_imports_a_monitoring_system() -> None:
    done = run(
        "import sys, sagalog, sagalog.cli.worker, sagalog.cli.health\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'opentelemetry', 'prometheus_client'}))"
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("prometheus", "prometheus_client", "prometheus"),
        ("otel", "opentelemetry", "otel"),
        ("connections", "uvicorn", "http"),
    ],
)
def test_a_missing_extra_is_named(module: str, package: str, extra: str) -> None:
    done = run(f"import sys; sys.modules[{package!r}] = None; import sagalog.telemetry.{module}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("sagalog.errors.MissingExtraError: ")
    assert f"pip install 'sagalog[{extra}]'" in done.stderr


@pytest.mark.parametrize("package", ["pytest", "pytest_asyncio"])
def test_the_conformance_tests_name_the_extra_that_they_need(package: str) -> None:
    done = run(f"import sys; sys.modules[{package!r}] = None; import sagalog.conformance")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"sagalog.errors.MissingExtraError: the conformance tests need the package {package}: "
        "pip install 'sagalog[conformance]'"
    )


@pytest.mark.parametrize(
    ("module", "package", "says"),
    [
        ("web", "starlette", "sagalog[web]"),
        ("web.fastapi", "fastapi", "pip install fastapi"),
        ("django", "django", "sagalog[django]"),
    ],
)
def test_what_serves_the_web_names_the_package_that_it_needs(module: str, package: str, says: str) -> None:
    done = run(f"import sys; sys.modules[{package!r}] = None; import sagalog.{module}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("sagalog.errors.MissingExtraError: ")
    assert says in done.stderr
