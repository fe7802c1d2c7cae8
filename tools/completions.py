"""Completions of the command for bash, zsh and fish: options, their values, files, users and servers."""

from __future__ import annotations

from tools.options import FILES, PROCESSES, SERVERS, USERS, WORDS, Option, options

MADE = "Completion of the options of rawservers. Generated: python3 -m tools.generate"

# A command that prints the process IDs of all servers: of their supervisors, not of the workers.
PIDS = (
    "ps -eo pid=,ppid=,args= 2>/dev/null | awk '$3 ~ /python/ && /rawservers/ { parent[$1] = $2 }"
    " END { for (pid in parent) if (!(parent[pid] in parent)) print pid }'"
)

BASH = r"""# @MADE@
_rawservers() {
    local line=${COMP_LINE:0:COMP_POINT}
    local word=${line##*[[:space:]]} # as it was typed: bash also cuts it at ":" and "="
    local -a before
    read -ra before <<< "${line%"$word"}"
    local option=${before[-1]} action= words= i
    if [[ $word == --*=* ]]; then
        option=${word%%=*} word=${word#*=}
    elif [[ $word == --* ]]; then
        option=
    fi
    case $option in
@CASES@
        *) if [[ $word == -* ]]; then words="@NAMES@"; else action=file; fi ;;
    esac
    COMPREPLY=()
    if [[ $action == file && ! $words ]]; then
        compopt -o default # readline's own, which knows quotes and ~
        return
    fi
    [[ $action != file ]] || compopt -o filenames
    mapfile -t COMPREPLY < <(
        compgen -W "$words" -- "$word"
        [[ ! $action ]] || compgen -A "$action" -- "$word"
    )
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then # what stands before the last ":" is not replaced
        for i in "${!COMPREPLY[@]}"; do
            COMPREPLY[i]=${COMPREPLY[i]#"${word%:*}:"}
        done
    fi
}

_rawservers_pids() {
    @PIDS@
}

complete -F _rawservers rawservers
"""

ZSH = r"""#compdef rawservers
# @MADE@
_rawservers_pids() {
    @PIDS@
}

_rawservers() {
    _arguments -s \
@LINES@
}

_rawservers "$@"
"""

FISH = r"""# @MADE@
function __rawservers_pids
    @PIDS@
end

@LINES@
"""


def fill(template: str, **parts: str) -> str:
    """The template with its @PARTS@."""
    for name, text in ({"MADE": MADE, "PIDS": PIDS} | parts).items():
        template = template.replace(f"@{name}@", text)
    return template


def bash() -> str:
    names = " ".join(name for each in options() for name in each.names)
    return fill(BASH, CASES="\n".join(bash_case(each) for each in options() if each.names and each.value), NAMES=names)


def bash_case(option: Option) -> str:
    words = list(option.words)
    if option.kind == PROCESSES:
        words.append("$(_rawservers_pids)")
    if option.kind == SERVERS:
        words.append("$(_rawservers_pids | sed s/^/pid:/)")
    action = {FILES: "action=file ", USERS: "action=user "}.get(option.kind, "")
    return f'        {" | ".join(option.names)}) {action}words="{" ".join(words)}" ;;'


def zsh() -> str:
    return fill(ZSH, LINES=" \\\n".join(f"        {line}" for each in options() for line in zsh_lines(each)))


def zsh_quoted(text: str) -> str:
    """Text inside an argument of _arguments that is in single quotes."""
    for letter in "\\[]:":
        text = text.replace(letter, f"\\{letter}")
    return text.replace("'", "'\\''")


def zsh_lines(option: Option) -> list[str]:
    """The arguments of _arguments for it, one for each of its names."""
    value = ""
    if option.value:
        colons = "::" if option.is_value_optional else ":"
        value = f"{colons}{zsh_quoted(option.value_name)}:{zsh_action(option)}"
    if not option.names:
        return [f"'{value}'"]
    exclusive = "*" if option.is_repeatable else f"({' '.join(option.names)})"
    return [
        f"'{exclusive}{name}{'=' * (bool(value) and name.startswith('--'))}[{zsh_quoted(option.brief)}]{value}'"
        for name in option.names
    ]


def zsh_action(option: Option) -> str:
    words = " ".join(zsh_quoted(word) for word in option.words)
    return {
        FILES: "{compadd -- " + words + "; _files}" if words else "_files",
        PROCESSES: '{compadd -- ${(f)"$(_rawservers_pids)"}}',
        SERVERS: "{compadd -- " + words + ' pid\\:${^${(f)"$(_rawservers_pids)"}}}',
        USERS: "_users",
        WORDS: f"({words})",
    }[option.kind]


def fish() -> str:
    return fill(FISH, LINES="\n".join(line for each in options() for line in fish_lines(each)))


def fish_lines(option: Option) -> list[str]:
    """The commands for it. A value that is optional may also be the next word."""
    if not option.names:
        return []
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    line = f"complete -c rawservers {names} -d '{fish_quoted(option.brief)}'"
    if not option.value:
        return [line]
    words = [fish_quoted(word) for word in option.words]
    more = {
        PROCESSES: "(__rawservers_pids)",
        SERVERS: "(__rawservers_pids | string replace -r ^ pid:)",
        USERS: "(__fish_complete_users)",
    }.get(option.kind)
    values = f" -a '{' '.join(filter(None, [*words, more]))}'" if words or more else ""
    if option.is_value_optional:
        return [line + values, f"complete -c rawservers -n '__fish_prev_arg_in {option.names[-1]}' -f{values}"]
    return [f"{line} {'-r -F' if option.kind == FILES else '-x'}{values}"]


def fish_quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
