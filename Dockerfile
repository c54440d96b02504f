# lungunet in a container, built from the checkout:
#
#     docker build -t lungunet .
#     docker build -t lungunet:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#
# The first holds PyTorch without CUDA. Nothing is downloaded at run time: the model `lungs` is inside.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/lungunet
# torch and torchvision come as one pair, from one place. By themselves, so that a change of the code
# does not fetch them again.
# hadolint ignore=DL3013
RUN /opt/lungunet/bin/pip install --index-url "${TORCH_INDEX}" torch torchvision
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY lungunet lungunet
RUN /opt/lungunet/bin/pip install '.[all]'

FROM python:${PYTHON}-slim
COPY --from=build /opt/lungunet /opt/lungunet
RUN useradd --create-home --uid 1000 lungunet
USER lungunet
# HOME may belong to nobody where --user names somebody else; what is cached goes where all may write.
ENV PATH=/opt/lungunet/bin:$PATH XDG_CACHE_HOME=/tmp HF_HOME=/tmp/huggingface
WORKDIR /data
ENTRYPOINT ["lungunet"]
CMD ["--help"]
