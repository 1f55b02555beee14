#!/bin/sh
# Kafka in its container: its folder is formatted once, with an id that no other cluster has.
set -eu
file=/etc/mlops-course/server.properties
if [ ! -f /data/data/meta.properties ]; then
    kafka kafka.tools.StorageTool format --ignore-formatted -t "$(kafka kafka.tools.StorageTool random-uuid)" -c "$file"
fi
exec kafka kafka.Kafka "$file"
