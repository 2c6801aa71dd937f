# The program `grades` in a small image, without root, with the Hugging Face cache as a volume:
#   docker build --tag grades . && docker run --rm --volume "$PWD:/io" --volume hf:/cache grades train config.yaml
FROM rust:1.95-slim-trixie AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package grades-cli

FROM debian:trixie-slim
# Certificates for the Hugging Face Hub; the program needs nothing else but glibc.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 grades \
    && install --directory --owner grades --group grades /io /cache
COPY --from=build /src/target/release/grades /usr/local/bin/grades
USER grades
ENV HF_HOME=/cache
VOLUME /cache
WORKDIR /io
ENTRYPOINT ["grades"]
CMD ["--help"]
