
# _PROGRAM offers options where an argument can come. This function offers what the argument can be: files
# and the names of snapshots, files, or nothing for a number.
_PROGRAM_arguments() {
    _PROGRAM "$@"
    [[ $2 == -* ]] && return
    case $3 in
        OPTIONS) return ;;
    esac
    local word words=PROGRAM config=() before='' name
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $before == --config ]] && config=(--config "$word")
        case "$words $word" in
            COMMANDS) words+=" $word" ;;
        esac
        before=$word
    done
    case ${COMP_WORDS[COMP_CWORD - 2]} in
        PAIRS) words=number ;;
    esac
    case $words in
        SNAPSHOTS)
            COMPREPLY=()
            compopt -o filenames
            while read -r name; do
                COMPREPLY+=("$name")
            done < <(
                compgen -f -- "$2"
                "$1" "${config[@]}" snapshot list 2>/dev/null | while read -r _ name _; do
                    [[ $name == *.dsnap && $name == "$2"* ]] && printf '%s\n' "$name"
                done
            )
            ;;
        FILES) COMPREPLY=() ;;
        number | NUMBERS)
            COMPREPLY=()
            compopt +o default +o bashdefault
            ;;
    esac
}

complete -F _PROGRAM_arguments -o bashdefault -o default PROGRAM
