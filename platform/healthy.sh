#!/bin/bash
# Whether a port of this container is open, or answers a path with 200: healthy PORT [PATH]. For images without curl.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
[ -n "${2-}" ] || exit 0
printf 'GET %s HTTP/1.0\r\nHost: localhost:%s\r\n\r\n' "$2" "$1" >&3
read -r -t 4 _ status _ <&3 && [ "$status" = 200 ]
