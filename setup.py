"Packaging, from settings.ini (the nbdev 2 layout)."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
readme = here/"README.md"
end = "_requirements"
extras = {key.removesuffix(end): value.split() for key, value in cfg.items() if key.endswith(end)}

class WithExperiments(build_py):
    "A wheel carries the experiments that `agentark run` knows by name: their YAML files and notebooks."

    def run(self):
        super().run()
        if self.editable_mode: return
        for path in [*here.glob("papermill_runs/*/*.yaml"), *here.glob("nbs/12_experiments/*.ipynb")]:
            target = Path(self.build_lib)/"agentark"/"experiments"/path.relative_to(here)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    project_urls={"Paper": "https://arxiv.org/abs/2602.03955"},
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["agentark", "agentark.*"]),
    package_data={"agentark": [
        "methods/configs/*/*.yaml", "distill/*.txt", "lab/models/*/*", "paper/*.json", "runs/*.html",
    ]},
    cmdclass={"build_py": WithExperiments},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "vllm.general_plugins": ["agentark=agentark.engines.vllm:end_with_parent"],
    },
    zip_safe=False,
)
