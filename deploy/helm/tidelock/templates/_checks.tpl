{{/* What the schema cannot say, refused in words. Called once, by the StatefulSet. */}}
{{- define "tidelock.checks" -}}
{{- if and (not .Values.persistence.enabled) (gt (int64 .Values.replicas) 1) -}}
{{- fail "persistence.enabled=false is possible only with replicas=1: a voter that comes back without its Raft log is a stranger to the fleet" -}}
{{- end -}}

{{- if and .Values.fleetTls.existingSecret .Values.fleetSecret.existingSecret -}}
{{- fail (printf "fleetTls.existingSecret (%s) stands beside fleetSecret.existingSecret (%s): peers know each other by certificates or by a secret, so leave one of them empty" .Values.fleetTls.existingSecret .Values.fleetSecret.existingSecret) -}}
{{- end -}}
{{- if and .Values.fleetTls.name (not .Values.fleetTls.existingSecret) -}}
{{- fail "fleetTls.name is the name in certificates, and fleetTls.existingSecret names none" -}}
{{- end -}}

{{- if and (gt (int64 .Values.drain.deadlineMs) 0) (gt (int64 .Values.drain.settleMs) (int64 .Values.drain.deadlineMs)) -}}
{{- fail (printf "drain.settleMs (%d) is longer than drain.deadlineMs (%d): connections would be cut before any were asked to leave" (int64 .Values.drain.settleMs) (int64 .Values.drain.deadlineMs)) -}}
{{- end -}}

{{- $names := list -}}
{{- $ports := list (int64 .Values.admin.port) (int64 .Values.peers.port) -}}
{{- $servicePorts := list -}}
{{- if eq (first $ports) (last $ports) -}}
{{- fail (printf "admin.port and peers.port are both %d" (first $ports)) -}}
{{- end -}}
{{- range .Values.listeners -}}
{{- if has .name $names -}}
{{- fail (printf "listeners: the name %q is used twice" .name) -}}
{{- end -}}
{{- if has (int64 .port) $ports -}}
{{- fail (printf "listeners: %q wants port %d, which is taken by another listener, admin.port or peers.port" .name (int64 .port)) -}}
{{- end -}}
{{- if has (int64 .servicePort) $servicePorts -}}
{{- fail (printf "listeners: %q wants servicePort %d, which another listener has" .name (int64 .servicePort)) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- $ports = append $ports (int64 .port) -}}
{{- $servicePorts = append $servicePorts (int64 .servicePort) -}}
{{- end -}}

{{- $running := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "tidelock.fullname" .) -}}
{{- if $running -}}
{{- $founders := dig "metadata" "annotations" "tidelock/founders" "" $running -}}
{{- if and $founders (ne $founders (toString (int64 .Values.replicas))) -}}
{{- fail (printf "this fleet was founded with %s nodes, and replicas=%d would change that: voters live in the replicated log, not in this chart. Keep replicas=%s, or found a new fleet under another release name" $founders (int64 .Values.replicas) $founders) -}}
{{- end -}}
{{- end -}}
{{- end -}}
