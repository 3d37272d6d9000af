{{/* The name of the application. */}}
{{- define "callbridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The name of the release's objects. At most 50 characters: suffixes and the pods' own must fit. */}}
{{- define "callbridge.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "callbridge.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "callbridge.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "callbridge.selectorLabels" -}}
app.kubernetes.io/name: {{ include "callbridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{/* Labels of every object, without the component. */}}
{{- define "callbridge.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "callbridge.labels" -}}
{{ include "callbridge.selectorLabels" . }}
{{ include "callbridge.commonLabels" . }}
{{- end }}

{{- define "callbridge.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "callbridge.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "callbridge.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* When a callback is acknowledged. */}}
{{- define "callbridge.ack" -}}
{{- default (eq .Values.mode "statefulset" | ternary "journal" "broker") .Values.config.ack }}
{{- end }}

{{- define "callbridge.gracePeriod" -}}
{{- default (add .Values.config.drain_seconds 10) .Values.terminationGracePeriodSeconds | int64 }}
{{- end }}

{{/* The configuration with what the chart sets, as YAML. */}}
{{- define "callbridge.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $own := dict "ack" (include "callbridge.ack" .) }}
{{- $_ := set $own "callbacks" (dict "listen" "0.0.0.0:8080") }}
{{- $_ := set $own "admin" (dict "listen" "0.0.0.0:9464") }}
{{- /* A folder below the mount, which callbridge makes with mode 0700: fsGroup opens the mount itself to its group. */}}
{{- $_ := set $own "journal" (dict "dir" "/var/lib/callbridge/journal") }}
{{- if and (eq .Values.mode "deployment") (eq (include "callbridge.ack" .) "journal") }}
{{- /* An emptyDir goes with its pod. */}}
{{- $_ := set $own.journal "persistent" false }}
{{- end }}
{{- if .Values.tlsSecret }}
{{- $_ := set $own.callbacks "tls" (dict "certificate_file" "/run/secrets/callbridge-tls/tls.crt" "key_file" "/run/secrets/callbridge-tls/tls.key") }}
{{- end }}
{{- mergeOverwrite $config $own | toYaml }}
{{- end }}

{{/* A table of TOML, first its plain settings, then its tables. Call with a dict of "path" (a prefix) and "table". */}}
{{- define "callbridge.toml" -}}
{{- $path := .path }}
{{- range $name, $value := .table }}
{{- $key := regexMatch "^[A-Za-z0-9_-]+$" $name | ternary $name (toJson $name) }}
{{- if kindIs "map" $value }}
{{- include "callbridge.toml" (dict "path" (printf "%s%s." $path $key) "table" $value) }}
{{- else if and (kindIs "slice" $value) (kindIs "map" (first $value)) }}
{{- else if not (kindIs "invalid" $value) }}
{{ $path }}{{ $key }} = {{ include "callbridge.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* Numbers of values are floats, and every number of callbridge is whole. */}}
{{- define "callbridge.tomlValue" -}}
{{- if kindIs "float64" . }}{{ int64 . }}
{{- else if kindIs "slice" . }}[{{ range $index, $value := . }}{{ if $index }}, {{ end }}{{ include "callbridge.tomlValue" $value }}{{ end }}]
{{- else }}{{ toJson . }}
{{- end }}
{{- end }}

{{/* What cannot work, and no schema can say. */}}
{{- define "callbridge.validate" -}}
{{- if and (eq .Values.mode "statefulset") (ne (include "callbridge.ack" .) "journal") }}
{{- fail (printf "mode: statefulset has a journal for each replica, which config.ack: %s does not use: take mode: deployment" .Values.config.ack) }}
{{- end }}
{{- if and (eq .Values.mode "statefulset") .Values.autoscaling.enabled }}
{{- fail "autoscaling: a replica of mode: statefulset that goes leaves its journal behind: set replicaCount" }}
{{- end }}
{{- if lt (int64 (include "callbridge.gracePeriod" .)) (int64 (add .Values.config.drain_seconds 1)) }}
{{- fail "terminationGracePeriodSeconds: must be above config.drain_seconds, or callbridge is killed while it stops" }}
{{- end }}
{{- end }}
