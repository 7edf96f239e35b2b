#!/usr/bin/env bash
# Removes an instance with its data and all its logins, and waits until that is done.
#   BROKER_URI=http://user:password@host:port config/bosh-lite.deprovision.sh INSTANCE_ID
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/bosh-lite.functions.sh"

[ $# = 1 ] || usage "INSTANCE_ID"
instance=$1
request DELETE "/v2/service_instances/$instance?$QUERY&accepts_incomplete=true"
if [ "$status" = 410 ]; then
  echo "there is no instance $instance"
  exit
fi
wait_for "$instance"
