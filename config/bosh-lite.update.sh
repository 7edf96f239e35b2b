#!/usr/bin/env bash
# Changes the number of an instance's nodes and waits until that is done.
#   BROKER_URI=http://user:password@host:port config/bosh-lite.update.sh INSTANCE_ID NODE_COUNT
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/bosh-lite.functions.sh"

[[ $# = 2 && $2 =~ ^[0-9]+$ ]] || usage "INSTANCE_ID NODE_COUNT"
instance=$1 nodes=$2
# Without a plan_id the instance keeps the plan that it has.
request PATCH "/v2/service_instances/$instance" \
  "{\"accepts_incomplete\": true, \"service_id\": \"$SERVICE_ID\", \"parameters\": {\"node-count\": $nodes}}"
wait_for "$instance"
