#!/bin/sh
# Reads schbench-like text on standard input and writes the figures as JSON.
exec sed -n \
    -e 's/^.*99\.0th: *\([0-9.]*\).*$/{"wakeup_p99": \1,/p' \
    -e 's/^rps: *\([0-9.]*\).*$/ "rps": \1}/p'
