#!/bin/sh
# Renders the plain manifests from the chart, with its example values: deployment.yaml and statefulset.yaml.
# Usage: render.sh HELM [DIR]      (the folder of this script by default)
set -eu

here=$(dirname "$0")
helm=$1 out=${2:-$here}
chart=$here/../helm/callbridge
for shape in deployment statefulset; do
    {
        echo "# Rendered from deploy/helm/callbridge with ci/$shape-values.yaml by \"make manifests\": change it there."
        echo '# Before you apply it, fill in the image, sdk_app_id and bootstrap.servers, and make the Secret callbridge-tokens.'
        "$helm" template callbridge "$chart" --values "$chart/ci/$shape-values.yaml" --no-hooks |
            sed -e '/^# Source: /d' -e '/^ *helm.sh\/chart: /d' -e '/^ *app.kubernetes.io\/managed-by: Helm$/d'
    } >"$out/$shape.yaml"
done
