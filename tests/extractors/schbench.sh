#!/bin/sh
# Reads schbench-like text on standard input and writes the figures as JSON; of no other program than that of the test.
if [ "$KTSTR_PAYLOAD" != wakebench ]; then
    echo "KTSTR_PAYLOAD is '$KTSTR_PAYLOAD', expected 'wakebench'" >&2
    exit 3
fi
exec sed -n \
    -e 's/^.*99\.0th: *\([0-9.]*\).*$/{"wakeup_p99": \1,/p' \
    -e 's/^rps: *\([0-9.]*\).*$/ "rps": \1}/p'
