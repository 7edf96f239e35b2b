# What the scripts beside this file share. Service and plan are those of bosh-lite.example.yml unless SERVICE_ID and
# PLAN_ID say otherwise.
# usage ARGUMENTS: says how the script is called, and ends it.
usage() {
  echo "usage: $0 $1" >&2
  exit 2
}

if [ -z "${BROKER_URI:-}" ]; then
  echo "set BROKER_URI, beside \`local-runner up\`: export BROKER_URI=http://starkandwayne:starkandwayne@127.0.0.1:8888" >&2
  exit 2
fi
: "${SERVICE_ID:=0f5c1670-6dc3-11e5-bc08-6c4008a663f0}"
: "${PLAN_ID:=1545e30e-6dc3-11e5-826a-6c4008a663f0}"
IDS="\"service_id\": \"$SERVICE_ID\", \"plan_id\": \"$PLAN_ID\""
QUERY="service_id=$SERVICE_ID&plan_id=$PLAN_ID"

for tool in curl jq; do
  command -v "$tool" >/dev/null || { echo "this script needs $tool" >&2; exit 1; }
done

# request METHOD PATH [BODY]: sets $status and $answer; ends the script when the broker refuses.
request() {
  local output
  output=$(curl -sS -w '\n%{http_code}' -X "$1" -H 'X-Broker-API-Version: 2.17' -H 'Content-Type: application/json' \
    ${3:+-d "$3"} "$BROKER_URI$2")
  status=${output##*$'\n'}
  answer=${output%$'\n'*}
  case $status in
  2?? | 410) ;;
  *)
    echo "the broker answered $status: $(jq -r '.description // .' <<<"$answer" 2>/dev/null || echo "$answer")" >&2
    exit 1
    ;;
  esac
}

# wait_for INSTANCE_ID: prints each new state until the operation has ended; fails when it has failed.
wait_for() {
  local state line last=
  while true; do
    request GET "/v2/service_instances/$1/last_operation"
    [ "$status" = 410 ] && return
    state=$(jq -r .state <<<"$answer")
    line="$state: $(jq -r .description <<<"$answer")"
    [ "$line" = "$last" ] || echo "$line"
    last=$line
    case $state in
    succeeded) return ;;
    failed) return 1 ;;
    esac
    sleep 1
  done
}
