#!/bin/sh
# runc for a machine that lacks CAP_SYS_RESOURCE: it is taken out of what dockerd asks for in privileged containers, as kind's nodes
# are, and for programs that are run in them. RUNC is the program.
previous=
for argument; do
  case $previous in
    --bundle) sed -i 's/"CAP_SYS_RESOURCE",//g' "$argument/config.json" ;;
    --process) sed -i 's/"CAP_SYS_RESOURCE",//g' "$argument" ;;
  esac
  previous=$argument
done
exec "$RUNC" "$@"
