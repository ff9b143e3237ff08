# Sourced by scripts that build programs once for all clones.
#
# once DIRECTORY [--print] prints where the programs are, DIRECTORY/bin. With --print, and when they are built already, the
# script ends there. Otherwise it goes on while no other clone does the same, and makes DIRECTORY/complete in the end.
once() {
  echo "$1/bin"
  [ "${2:-}" != --print ] || exit 0
  [ ! -e "$1/complete" ] || exit 0
  mkdir -p "$1/bin"
  exec 9>"$1/lock"
  flock 9
  [ ! -e "$1/complete" ] || exit 0
}
