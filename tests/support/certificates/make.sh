#!/bin/sh
# Makes the certificates of the tests anew, each valid for a century. Keys of tests protect nothing.
#
#   ca.pem                    signs all but the rogue
#   server.pem, server.key    localhost, 127.0.0.1, ::1
#   other.pem, other.key      other.example, *.wild.example
#   client.pem, client.key    a client of the name "client"
#   rogue.pem, rogue.key      a client that no authority has signed
#   rsa.pem, rsa.key          localhost, with an RSA key
set -eu
cd "$(dirname "$0")"
days=36500
key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"; }
sign() { # NAME SUBJECT EXTENSIONS
    printf '%s\nbasicConstraints=critical,CA:FALSE\n' "$3" >extensions
    openssl req -new -key "$1.key" -subj "/CN=$2" -out request
    openssl x509 -req -in request -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 15)" -days $days -sha256 \
        -extfile extensions -out "$1.pem" 2>/dev/null
}
key ca
openssl req -x509 -new -key ca.key -subj "/CN=The tests' authority" -days $days -sha256 -out ca.pem
key server && sign server localhost "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1
extendedKeyUsage=serverAuth"
key other && sign other other.example "subjectAltName=DNS:other.example,DNS:*.wild.example
extendedKeyUsage=serverAuth"
key client && sign client client "extendedKeyUsage=clientAuth"
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key 2>/dev/null
sign rsa localhost "subjectAltName=DNS:localhost
extendedKeyUsage=serverAuth"
key rogue
openssl req -x509 -new -key rogue.key -subj "/CN=rogue" -days $days -sha256 -out rogue.pem
rm -f request extensions ca.key
