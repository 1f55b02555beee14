"""Package the exported notebooks; names, versions and requirements are those of settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser()
parser.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
build = settings["build_requirements"].split()

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license="MIT",
    packages=find_packages(include=["mlops_course", "mlops_course.*"]),
    python_requires=f">={settings['min_python']}",
    classifiers=[f"Programming Language :: Python :: {python}" for python in settings["pythons"].split()],
    install_requires=settings["requirements"].split(),
    extras_require={"build": build, "dev": build + settings["dev_requirements"].split()},
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        # runs a stage's cells, and no others; Ploomber takes it under this name only
        "papermill.engine": [f"papermill={settings['lib_path']}.engine:StageEngine"],
        # nbdev finds the package of a notebook by this name
        "nbdev": [f"{settings['lib_path']}={settings['lib_path']}._modidx:d"],
    },
)
