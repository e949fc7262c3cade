{ pids: 8192 }
