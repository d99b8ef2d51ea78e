#!/usr/bin/env bash
# Prints what each feature of the library adds to a program: crates, seconds of a release build from an empty target
# folder, bytes of the stripped executable.
#
#   bench/features.sh > bench/FEATURES.md        takes some minutes; seconds need a quiet machine
#
# The program is examples/hello.rs as it stands, in a package of its own with the repository's Cargo.lock. "used" has the
# feature's one line in it; without it the linker leaves out nearly all of the feature.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TERM_QUIET=true
unset CARGO_TARGET_DIR

# package NAME FEATURES LINES: a program with these features, and with these lines on the builder.
package() {
    mkdir -p "$work/$1/src"
    cp Cargo.lock "$work/$1/"
    cat >"$work/$1/Cargo.toml" <<END
[package]
name = "hello"
version = "0.0.0"
edition = "2024"
[dependencies]
socketserver = { path = "$repository", features = [$2] }
[profile.release]
strip = true
[workspace]
END
    sed "s|ThreadingTcpServer::bind(address, .. Echo)|ThreadingTcpServer::builder()$3.bind(address, \|\| Echo)|" \
        examples/hello.rs >"$work/$1/src/main.rs"
    grep -q 'builder()' "$work/$1/src/main.rs" || { echo "hello.rs has another form" >&2; exit 1; }
    (cd "$work/$1" && cargo fetch)
}

# row NAME TITLE: builds it, and prints a line of the table.
row() {
    (
        cd "$work/$1"
        crates=$(($(cargo tree --offline --edges normal,build --prefix none | sed 's/ (.*//' | sort -u | wc -l) - 1))
        began=$(date +%s.%N)
        cargo build --offline --release
        seconds=$(awk "BEGIN { printf \"%.1f\", $(date +%s.%N) - $began }")
        bytes=$(stat -c %s target/release/hello)
        echo "| $2 | $crates | $seconds | $bytes |"
        rm -rf target
    )
}

tls='.tls(socketserver::tls::Tls::from_pem("cert.pem", "key.pem")?)'
metrics='.metrics("hello")'
tracing='.tracing()'
package core '' ''
package tls '"tls"' ''
package tls-used '"tls"' "$tls"
package metrics '"metrics"' ''
package metrics-used '"metrics"' "$metrics"
package tracing '"tracing"' ''
package tracing-used '"tracing"' "$tracing"
package all '"tls", "metrics", "tracing"' ''
package all-used '"tls", "metrics", "tracing"' "$tls$metrics$tracing"

model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
echo "# What each feature adds"
echo
echo "\`bench/features.sh\`: \`examples/hello.rs\` as a package of its own, a release build from an empty target folder with all"
echo "crates fetched, and the stripped executable. \"Used\" is with the feature's one line on the builder. Crates are all"
echo "that are compiled, this library included."
echo
echo "$model, $(nproc) processors, $(rustc --version | cut -d' ' -f1,2)."
echo
echo "| features | crates | seconds | bytes |"
echo "|---|--:|--:|--:|"
row core 'none'
row tls '`tls`'
row tls-used '`tls`, used'
row metrics '`metrics`'
row metrics-used '`metrics`, used'
row tracing '`tracing`'
row tracing-used '`tracing`, used'
row all 'all'
row all-used 'all, used'
