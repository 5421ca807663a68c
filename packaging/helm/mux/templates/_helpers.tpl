{{- define "mux.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mux.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mux.labels" -}}
{{ include "mux.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "mux.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* The rules file: the user's, and where the probes and the reloading find mux. */}}
{{- define "mux.rules" -}}
{{- if regexMatch "(?m)^\\s*(\\[\\s*admin\\s*\\]|admin\\s*[.=])" .Values.rules -}}
{{- fail "rules: the chart writes [admin] itself; use existingConfigMap for one of your own" -}}
{{- end -}}
{{ trimSuffix "\n" .Values.rules }}

[admin]
socket = "/run/mux/admin.sock"
metrics = {{ printf "%s:%v" .Values.metrics.address .Values.metrics.port | quote }}
{{- end -}}

{{/* Seconds that the rules let flows go on after SIGTERM: `[timeouts] drain`. */}}
{{- define "mux.drain" -}}
{{- $line := regexFind "(?m)^[^#\\n]*\\bdrain\\s*=\\s*[\"'][0-9]+(ms|s|m|h|d)[\"']" .Values.rules -}}
{{- $value := regexFind "[0-9]+(ms|s|m|h|d)[\"']$" $line -}}
{{- $number := regexFind "^[0-9]+" $value | default "30" | int64 -}}
{{- $unit := regexFind "(ms|s|m|h|d)" $value | default "s" -}}
{{- if eq $unit "ms" }}{{ add1 (div $number 1000) }}
{{- else }}{{ mul $number (get (dict "s" 1 "m" 60 "h" 3600 "d" 86400) $unit) }}
{{- end -}}
{{- end -}}

{{- define "mux.grace" -}}
{{- if .Values.terminationGracePeriodSeconds -}}
{{- .Values.terminationGracePeriodSeconds -}}
{{- else -}}
{{- add .Values.preStopSeconds (include "mux.drain" . | int64) 15 -}}
{{- end -}}
{{- end -}}

{{/* Who the containers are. The second one is whoever owns the admin socket, and can do nothing else. */}}
{{- define "mux.user" -}}
{{- if .Values.kernelRelay -}}
runAsUser: 0
runAsGroup: 0
{{- else -}}
runAsNonRoot: true
runAsUser: 65534
runAsGroup: 65534
{{- end }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- end -}}
