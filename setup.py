"Packaging, from settings.ini (the nbdev 2 layout)."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="]); parser.read(here/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = {k[:-len("_requirements")]: v.split() for k, v in cfg.items() if k.endswith("_requirements")}

setup(name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], author=cfg["author"], license="Apache-2.0", url=cfg["git_url"],
      keywords=cfg["keywords"].split(), python_requires=f">={cfg['min_python']}", packages=find_packages(include=["agentark", "agentark.*"]),
      package_data={"agentark": ["methods/configs/*/*.yaml", "lab/models/*/*"]}, install_requires=cfg["requirements"].split(), extras_require=extras,
      long_description=(here/"README.md").read_text(encoding="utf-8") if (here/"README.md").exists() else "", long_description_content_type="text/markdown",
      entry_points={"console_scripts": cfg["console_scripts"].split(), "vllm.general_plugins": ["agentark=agentark.engines.vllm:end_with_parent"]}, zip_safe=False)
