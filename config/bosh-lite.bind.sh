#!/usr/bin/env bash
# Makes a login for an instance and prints its URI, ready for psql.
#   BROKER_URI=http://user:password@host:port config/bosh-lite.bind.sh INSTANCE_ID [BINDING_ID]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/bosh-lite.functions.sh"

[ $# -ge 1 ] || usage "INSTANCE_ID [BINDING_ID]"
instance=$1
# The plan that the instance has now, as far as the broker says it: that may have changed.
plan=$(curl -sS -H 'X-Broker-API-Version: 2.17' "$BROKER_URI/v2/service_instances/$instance" | jq -r '.plan_id // empty' || true)
IDS="\"service_id\": \"$SERVICE_ID\", \"plan_id\": \"${plan:-$PLAN_ID}\""
request PUT "/v2/service_instances/$instance/service_bindings/${2:-test}" "{$IDS}"
jq -r .credentials.uri <<<"$answer"
