#!/bin/sh
# Makes the CRDs of the Prometheus operator from its types, since its repository is in no package registry.
# Usage: build-crds.sh DIR      (the CRDs are in DIR/crds)
set -eu

mkdir -p "$1"
cd "$1"
GOBIN=$PWD go install sigs.k8s.io/controller-tools/cmd/controller-gen@v0.21.0
cat >go.mod <<'EOF'
module callbridge.test/crds
go 1.25.0
EOF
printf 'package tools\n\nimport _ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"\n' >tools.go
go get github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring@v0.95.2
go mod tidy
./controller-gen crd paths=github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1 output:crd:dir=crds
