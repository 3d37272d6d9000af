#!/bin/sh
# Builds a real kube-apiserver with Go, since no binary of it is in a package registry. Takes six minutes the first time.
# Usage: build-apiserver.sh DIR VERSION      (for example 1.36.3); the program is DIR/kube-apiserver
set -eu

dir=$1 version=$2
minor=${version#*.}
staging=v0.$minor
minor=${minor%.*}
mkdir -p "$dir"
cd "$dir"

# k8s.io/kubernetes requires its own staging modules as v0.0.0 and replaces them by folders: here by their releases.
go_mod=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",*$/\1/p')
{
    echo 'module callbridge.test/apiserver'
    sed -n 's/^go /go /p' "$go_mod"
    echo "require k8s.io/kubernetes v$version"
    sed -n 's/^\t\(k8s.io\/[^ ]*\) v0\.0\.0$/\1/p' "$go_mod" | while read -r module; do
        echo "replace $module => $module $staging"
    done
} >go.mod
printf 'package tools\n\nimport _ "k8s.io/kubernetes/cmd/kube-apiserver"\n' >tools.go
go mod tidy -e

# Without these, kubectl and helm read a version that they cannot parse.
set_version="-X k8s.io/component-base/version.gitVersion=v$version"
set_version="$set_version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor"
go build -ldflags "-s -w $set_version" -o kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
