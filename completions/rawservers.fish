# Completion of the options of rawservers. Generated: python3 -m tools.generate
function __rawservers_pids
    ps -eo pid=,ppid=,args= 2>/dev/null | awk '$3 ~ /python/ && /rawservers/ { parent[$1] = $2 } END { for (pid in parent) if (!(parent[pid] in parent)) print pid }'
end

complete -c rawservers -s h -l help -d 'show this help message and exit'
complete -c rawservers -s p -l port -d 'port of HTTP' -x
complete -c rawservers -l http -d 'address to listen on, or off' -x -a 'off 127.0.0.1:8080'
complete -c rawservers -l telnet -d 'address to listen on, or off' -x -a 'off 127.0.0.1:2323'
complete -c rawservers -l https -d 'address to listen on with TLS, or off' -x -a 'off 127.0.0.1:8443'
complete -c rawservers -l telnets -d 'address to listen on with TLS, or off' -x -a 'off 127.0.0.1:9923'
complete -c rawservers -l certificate -d 'certificate for TLS, in PEM, with the intermediate ones' -r -F
complete -c rawservers -l key -d 'its private key, in PEM' -r -F
complete -c rawservers -l tls-self-signed -d 'TLS with a new certificate of no authority, for trying out'
complete -c rawservers -l bind -d 'host for all addresses that are only a port, and for the default ones' -x -a '127.0.0.1 0.0.0.0 [::1] [::]'
complete -c rawservers -l access-log -d 'access log file, "-" for standard output, or "off"' -r -F -a '- off'
complete -c rawservers -l listing -l no-listing -d 'list directories of the first site that have no index file'
complete -c rawservers -l workers -d 'worker processes, or auto' -x -a 'auto'
complete -c rawservers -l user -d 'user, and group, of the workers' -x -a '(__fish_complete_users)'
complete -c rawservers -s c -l config -d 'configuration file in TOML' -r -F
complete -c rawservers -l trace -d 'print a line for each event of each socket to standard error'
complete -c rawservers -l check -d 'test the configuration and exit'
complete -c rawservers -l print-config -d 'print a configuration file with every setting, commented out, with its meaning and its default'
complete -c rawservers -l reload -d 'make the server whose supervisor has this process ID reload, and wait for the new workers' -x -a '(__rawservers_pids)'
complete -c rawservers -l status -d 'print the status of a server' -a 'unix:/run/rawservers/status (__rawservers_pids | string replace -r ^ pid:)'
complete -c rawservers -n '__fish_prev_arg_in --status' -f -a 'unix:/run/rawservers/status (__rawservers_pids | string replace -r ^ pid:)'
complete -c rawservers -l watch -d 'show the status and the table of sockets in this terminal, once a second'
complete -c rawservers -l format -d 'format of the status' -x -a 'text json prometheus'
complete -c rawservers -l version -d 'show program\'s version number and exit'
