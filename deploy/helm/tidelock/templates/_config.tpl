{{/* tidelock.toml. Unknown fields are an error there, so a typo in config.limits stops the rollout at its first pod. */}}
{{- define "tidelock.config" -}}
[node]
data_dir = "/var/lib/tidelock"
{{- if .Values.config.workers }}
workers = {{ int64 .Values.config.workers }}
{{- end }}

[fleet]
listen = {{ printf "%s:%d" .Values.bindAddress (int64 .Values.peers.port) | toJson }}
founders = [
{{- range $ordinal := until (int .Values.replicas) }}
  {{ printf "%s-%d.%s:%d" (include "tidelock.fullname" $) $ordinal (include "tidelock.podDomain" $) (int64 $.Values.peers.port) | toJson }},
{{- end }}
]
{{- if .Values.fleetTls.existingSecret }}

[fleet.tls]
authorities = "/etc/tidelock/fleet-tls/ca.crt"
certificate = "/etc/tidelock/fleet-tls/tls.crt"
key = "/etc/tidelock/fleet-tls/tls.key"
{{- with .Values.fleetTls.name }}
name = {{ toJson . }}
{{- end }}
{{- else }}
secret_file = "/etc/tidelock/fleet-secret"
{{- end }}

[admin]
listen = {{ printf "%s:%d" .Values.bindAddress (int64 .Values.admin.port) | toJson }}
token_file = "/etc/tidelock/admin-token"
{{- range .Values.listeners }}

[[listeners]]
address = {{ printf "%s:%d" $.Values.bindAddress (int64 .port) | toJson }}
{{- if .tls }}
tls = { certificate = "/etc/tidelock/tls/{{ .name }}/tls.crt", key = "/etc/tidelock/tls/{{ .name }}/tls.key" }
{{- end }}
{{- end }}

[access_log]
format = {{ toJson .Values.config.accessLog }}

[drain]
settle_ms = {{ int64 .Values.drain.settleMs }}
deadline_ms = {{ int64 .Values.drain.deadlineMs }}
{{- with .Values.config.limits }}

[limits]
{{- include "tidelock.tomlTable" . }}
{{- end }}
{{- with .Values.config.timeouts }}

[timeouts]
{{- include "tidelock.tomlTable" . }}
{{- end }}
{{- range .Values.config.initial.pools }}

[[initial.pools]]
{{- include "tidelock.tomlTable" . }}
{{- end }}
{{- range .Values.config.initial.routes }}

[[initial.routes]]
{{- include "tidelock.tomlTable" . }}
{{- end }}
{{ end -}}
