#!/usr/bin/env bash
# Makes an instance and waits until it takes connections.
#   BROKER_URI=http://user:password@host:port config/bosh-lite.provision.sh INSTANCE_ID [NODE_COUNT]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/bosh-lite.functions.sh"

[[ $# -ge 1 && ${2:-1} =~ ^[0-9]+$ ]] || usage "INSTANCE_ID [NODE_COUNT]"
instance=$1
parameters=${2:+"\"node-count\": $2"}
request PUT "/v2/service_instances/$instance" \
  "{\"accepts_incomplete\": true, $IDS, \"parameters\": {${parameters:-}}}"
wait_for "$instance"
