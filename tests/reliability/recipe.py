"""Checks that the conda recipe is valid and agrees with pyproject.toml: ``python tests/reliability/recipe.py``.

Needs Python 3.11 and ``py-rattler-build``, which renders the recipe for each platform as a build would.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rattler_build
import tomllib

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / ".github" / "conda" / "recipe.yaml"
PLATFORMS = {"linux-64": "libgomp", "linux-aarch64": "libgomp", "osx-64": "llvm-openmp", "osx-arm64": "llvm-openmp"}
"""The platforms, and the package of the OpenMP runtime of each."""
VARIANT = {"python": ["3.13.* *_cp313"], "c_compiler": ["gcc"], "c_stdlib": ["sysroot"]}


def rendered(platform: str) -> dict[str, Any]:
    """The recipe as it is for a platform."""
    settings = rattler_build.PlatformConfig(build_platform="linux-64", target_platform=platform, host_platform=platform)
    recipe = rattler_build.Stage0Recipe.from_file(RECIPE)
    (variant,) = recipe.render(rattler_build.VariantConfig(VARIANT), rattler_build.RenderConfig(platform=settings))
    return variant.recipe.to_dict()


def problems(platform: str) -> list[str]:
    """What differs from pyproject.toml and the package, in words."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version: dict[str, str] = {}
    exec((ROOT / "cregkit" / "_version.py").read_text(encoding="utf-8"), version)
    recipe = rendered(platform)
    host = {requirement.replace(" ", "") for requirement in recipe["requirements"]["host"]}
    (command,) = pyproject["project"]["scripts"].items()
    expected = {
        "version": (recipe["package"]["version"], version["__version__"]),
        "build requirements": (sorted(host - {"python", "pip"}), sorted(pyproject["build-system"]["requires"])),
        "run requirements": (recipe["requirements"]["run"], ["python", PLATFORMS[platform]]),
        "entry point": (recipe["build"]["python"]["entry_points"], [" = ".join(command)]),
        "summary": (recipe["about"]["summary"], pyproject["project"]["description"]),
    }
    return [f"{platform}: {what} must be {right}, got {got}" for what, (got, right) in expected.items() if got != right]


def main() -> int:
    """Check every platform."""
    wrong = [problem for platform in PLATFORMS for problem in problems(platform)]
    print("\n".join(wrong) or f"the conda recipe is valid for {', '.join(PLATFORMS)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
