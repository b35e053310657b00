{{- define "fencron.labels" -}}
app.kubernetes.io/name: fencron
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "fencron.selector" -}}
app.kubernetes.io/name: fencron
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Pods and volumes have the name with more behind it: 63 characters in all. */ -}}
{{- define "fencron.name" -}}
{{- if contains "fencron" .Release.Name }}{{ .Release.Name | trunc 45 | trimSuffix "-" }}{{ else }}{{ printf "%s-fencron" (.Release.Name | trunc 37 | trimSuffix "-") }}{{ end }}
{{- end }}
