"Packaging, from settings.ini (the nbdev 2 layout)."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
readme = here/"README.md"
end = "_requirements"
extras = {key.removesuffix(end): value.split() for key, value in cfg.items() if key.endswith(end)}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["agentark", "agentark.*"]),
    package_data={"agentark": ["methods/configs/*/*.yaml", "lab/models/*/*", "paper/*.json"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "vllm.general_plugins": ["agentark=agentark.engines.vllm:end_with_parent"],
    },
    zip_safe=False,
)
