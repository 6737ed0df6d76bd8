"""`from badhands import ...` is what README shows; a package and its main function share the name `watch`."""

import subprocess
import sys

import pytest

import badhands


def test_public_names_import_in_a_fresh_process_whatever_was_imported_before():
    for before in ("", "import badhands.watch.overlay\n"):
        names = "Abort, BadHandCallback, Cell, Probes, Steer, capture, watch"
        code = f"{before}from badhands import {names}\nassert callable(watch)\n"
        code += "import badhands\nassert set(badhands.__all__) <= {*dir(badhands), *badhands._HOMES, 'watch'}"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, badhands\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = badhands.nothing
