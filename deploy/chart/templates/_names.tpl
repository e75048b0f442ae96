{{- define "mambad.name" -}}
{{- if contains "mambad" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-mambad" (.Release.Name | trunc 45 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "mambad.selector" -}}
app.kubernetes.io/name: mambad
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mambad.labels" -}}
{{ include "mambad.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: server
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "mambad.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "mambad.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ include "mambad.name" . }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "mambad.workloadKind" -}}
{{- if .Values.sessions.enabled }}StatefulSet{{ else }}Deployment{{ end }}
{{- end }}

{{/* mambad.yaml: what follows from the chart's values, and over it .Values.configuration. */}}
{{- define "mambad.configuration" -}}
{{- $knowsCallers := or .Values.auth.secret (and .Values.tls.secret .Values.tls.clientCa) }}
{{- if and (not .Values.allowInsecure) (not (and .Values.tls.secret $knowsCallers)) }}
{{- fail "allowInsecure is false: set tls.secret, and auth.secret or tls.clientCa" }}
{{- end }}
{{- $made := dict
  "model" .Values.model
  "draft_model" .Values.draftModel
  "listen" "0.0.0.0:50051"
  "allow_insecure" .Values.allowInsecure
  "drain_timeout" (printf "%ds" (int .Values.drainTimeout))
  "metrics" (dict "listen" "0.0.0.0:9464" "vllm_names" true)
  "log" (dict "format" "json")
  "compute" (dict "device" (ternary "cuda" "cpu" .Values.gpu.enabled)) }}
{{- if .Values.tls.secret }}
{{- $tls := dict "certificate" "/run/mambad/tls/tls.crt" "private_key" "/run/mambad/tls/tls.key" }}
{{- if .Values.tls.clientCa }}{{ $_ := set $tls "client_ca" "/run/mambad/tls/ca.crt" }}{{ end }}
{{- $_ := set $made "tls" $tls }}
{{- end }}
{{- if .Values.auth.secret }}{{ $_ := set $made "auth" (dict "token_file" "/run/mambad/auth/tokens") }}{{ end }}
{{- if .Values.sessions.enabled }}{{ $_ := set $made "sessions" (dict "directory" "/var/lib/mambad/sessions") }}{{ end }}
{{- toYaml (mergeOverwrite $made (deepCopy .Values.configuration)) }}
{{- end }}
