#!/bin/sh
# Airflow's API server in its container: its tables are made as this version wants them, and the pool of trainings.
set -eu
umask 077
cp /etc/mlops-course/passwords.json /data # Airflow opens it to write
version=$(airflow version)
if [ "$(cat /data/tables_of 2>/dev/null)" != "$version" ]; then
    airflow db migrate
    airflow pools set training 1 'one training at a time'
    echo "$version" >/data/tables_of.part && mv /data/tables_of.part /data/tables_of
fi
exec airflow api-server
