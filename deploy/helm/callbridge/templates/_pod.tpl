{{/* The pod template of both shapes. */}}
{{- define "callbridge.pod" -}}
metadata:
  annotations:
    checksum/config: {{ include "callbridge.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "callbridge.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "callbridge.serviceAccountName" . }}
  automountServiceAccountToken: false
  # Else a Service named callbridge puts variables into the environment that look like settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "callbridge.gracePeriod" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: callbridge
      image: {{ include "callbridge.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/callbridge/callbridge.toml]
      {{- with .Values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: callbacks
          containerPort: 8080
        - name: admin
          containerPort: 9464
      # Also 200 while a large journal is read at the start.
      livenessProbe:
        httpGet:
          path: /livez
          port: admin
        {{- toYaml .Values.livenessProbe | nindent 8 }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
        {{- toYaml .Values.readinessProbe | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/callbridge
          readOnly: true
        {{- if .Values.blocklistConfigMap }}
        - name: blocklist
          mountPath: /etc/callbridge/blocklist
          readOnly: true
        {{- end }}
        {{- if .Values.tokenSecret }}
        - name: tokens
          mountPath: /run/secrets/callbridge-tokens
          readOnly: true
        {{- end }}
        {{- if .Values.tlsSecret }}
        - name: tls
          mountPath: /run/secrets/callbridge-tls
          readOnly: true
        {{- end }}
        {{- if eq (include "callbridge.ack" .) "journal" }}
        - name: journal
          mountPath: /var/lib/callbridge
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "callbridge.fullname" . }}
    {{- with .Values.blocklistConfigMap }}
    - name: blocklist
      configMap:
        name: {{ . }}
    {{- end }}
    {{- with .Values.tokenSecret }}
    - name: tokens
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.tlsSecret }}
    - name: tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- if and (eq .Values.mode "deployment") (eq (include "callbridge.ack" .) "journal") }}
    # It survives a crash of the container, not the end of the pod: what Kafka has not taken by then is lost.
    - name: journal
      emptyDir:
        {{- toYaml .Values.emptyDir | nindent 8 }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- with .Values.topologySpreadConstraints }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "callbridge.selectorLabels" $ | nindent 10 }}
    {{- end }}
    {{- end }}
{{- end }}
