{{/* kubelet's gRPC probes know no TLS: with it, the health of the metrics port is asked, which is the same. */}}
{{- define "mambad.probe" -}}
{{- if .Values.tls.secret -}}
httpGet: {path: /healthz, port: metrics}
{{- else -}}
grpc: {port: 50051}
{{- end }}
{{- end }}

{{- define "mambad.pod" -}}
metadata:
  labels:
    {{- include "mambad.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # Another configuration means other pods.
    checksum/configuration: {{ include "mambad.configuration" . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "mambad.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # preStop, running calls, and writing sessions down.
  terminationGracePeriodSeconds: {{ add (int .Values.drainTimeout) 20 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if and .Values.gpu.enabled .Values.gpu.runtimeClass }}
  runtimeClassName: {{ .Values.gpu.runtimeClass }}
  {{- end }}
  containers:
  - name: mambad
    image: {{ include "mambad.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: {{ .Values.extraArguments | toJson }}
    ports:
    - {name: grpc, containerPort: 50051}
    - {name: metrics, containerPort: 9464}
    {{- with .Values.extraEnv }}
    env: {{ toYaml . | nindent 4 }}
    {{- end }}
    # Weights may take minutes to come from a slow disk.
    startupProbe:
      {{- include "mambad.probe" . | nindent 6 }}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 240
    readinessProbe:
      {{- include "mambad.probe" . | nindent 6 }}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 2
    # An engine that is stalled is given a minute beyond watchdog_timeout to come back.
    livenessProbe:
      {{- include "mambad.probe" . | nindent 6 }}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    # No new calls come when they begin to be refused.
    lifecycle:
      preStop:
        sleep: {seconds: 5}
    {{- $resources := deepCopy .Values.resources }}
    {{- if .Values.gpu.enabled }}
    {{- $_ := mergeOverwrite $resources (dict "limits" (dict .Values.gpu.resource 1)) }}
    {{- end }}
    resources: {{ toYaml $resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
    - {name: configuration, mountPath: /etc/mambad, readOnly: true}
    {{- if .Values.tls.secret }}
    - {name: tls, mountPath: /run/mambad/tls, readOnly: true}
    {{- end }}
    {{- if .Values.auth.secret }}
    - {name: auth, mountPath: /run/mambad/auth, readOnly: true}
    {{- end }}
    {{- if or .Values.models.claim .Values.models.hostPath }}
    - {name: models, mountPath: /models, readOnly: true}
    {{- end }}
    {{- if .Values.sessions.enabled }}
    - {name: sessions, mountPath: /var/lib/mambad}
    {{- end }}
    {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
  volumes:
  - name: configuration
    configMap: {name: {{ include "mambad.name" . }}}
  {{- with .Values.tls.secret }}
  - name: tls
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
  {{- with .Values.auth.secret }}
  - name: auth
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
  {{- if .Values.models.claim }}
  - name: models
    persistentVolumeClaim: {claimName: {{ .Values.models.claim }}, readOnly: true}
  {{- else if .Values.models.hostPath }}
  - name: models
    hostPath: {path: {{ .Values.models.hostPath }}, type: Directory}
  {{- end }}
  {{- with .Values.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- if or .Values.gpu.enabled .Values.tolerations }}
  tolerations:
  {{- if .Values.gpu.enabled }}
  - {key: {{ .Values.gpu.resource }}, operator: Exists, effect: NoSchedule}
  {{- end }}
  {{- with .Values.tolerations }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- end }}
  topologySpreadConstraints:
  {{- with .Values.topologySpreadConstraints }}{{ toYaml . | nindent 2 }}{{ else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "mambad.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
