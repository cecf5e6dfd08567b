{{/*
TOML values from Helm values. Sprig's toToml prints every number as a float ("5000.0"), which a strict reader of
integers refuses; so: strings as JSON strings (TOML's basic strings read them), whole numbers as integers,
maps as inline tables, null left out.
*/}}
{{- define "tidelock.toml" -}}
{{- if kindIs "map" . -}}
{{- $fields := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $fields = append $fields (printf "%s = %s" (toJson $key) (include "tidelock.toml" $value)) -}}
{{- end -}}
{{- end -}}
{ {{ join ", " $fields }} }
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . -}}
{{- $items = append $items (include "tidelock.toml" .) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else if kindIs "float64" . -}}
{{- if eq (float64 (int64 .)) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{/* The lines "key = value" of one table. */}}
{{- define "tidelock.tomlTable" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ if regexMatch "^[A-Za-z0-9_-]+$" $key }}{{ $key }}{{ else }}{{ toJson $key }}{{ end }} = {{ include "tidelock.toml" $value }}
{{- end }}
{{- end }}
{{- end -}}
