#!/bin/sh
# Takes a console log on standard input and prints what stands between the
# parity markers, without carriage returns; status 1 without both markers.
tr -d '\r' | awk '
	$0 == "=== parity end ===" { ended = on; on = 0 }
	on { print }
	$0 == "=== parity begin ===" { on = 1 }
	END { exit !ended }'
