{{/* Names, labels and addresses: one place, since Services, founders and selectors must agree. */}}

{{- define "tidelock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 characters: a StatefulSet's pods get "-0" and a controller-revision-hash label of 11 more. */}}
{{- define "tidelock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "tidelock.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tidelock.selector" -}}
app.kubernetes.io/name: {{ include "tidelock.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidelock.labels" -}}
{{ include "tidelock.selector" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "tidelock.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "tidelock.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tidelock.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tidelock.peersService" -}}
{{- printf "%s-peers" (include "tidelock.fullname" .) -}}
{{- end -}}

{{- define "tidelock.fleetSecretName" -}}
{{- default (printf "%s-fleet" (include "tidelock.fullname" .)) .Values.fleetSecret.existingSecret -}}
{{- end -}}

{{- define "tidelock.adminSecretName" -}}
{{- default (printf "%s-admin" (include "tidelock.fullname" .)) .Values.adminToken.existingSecret -}}
{{- end -}}

{{/* What follows the pod's name in its DNS name. */}}
{{- define "tidelock.podDomain" -}}
{{- printf "%s.%s.svc.%s" (include "tidelock.peersService" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{/* How a process in the pod calls the pod's own admin API. */}}
{{- define "tidelock.localApi" -}}
{{- $host := ternary "[::1]" "127.0.0.1" (hasPrefix "[" .Values.bindAddress) -}}
{{- printf "http://%s:%d" $host (int64 .Values.admin.port) -}}
{{- end -}}

{{/* settle + deadline, rounded up, + margin. */}}
{{- define "tidelock.graceSeconds" -}}
{{- $milliseconds := add (int64 .Values.drain.settleMs) (int64 .Values.drain.deadlineMs) -}}
{{- add (div (add $milliseconds 999) 1000) (int64 .Values.drain.marginSeconds) -}}
{{- end -}}
