#!/usr/bin/env bash
# deploy/image_files.sh FOLDER: completes FOLDER, into which `DESTDIR=FOLDER cmake --install BUILD --prefix /usr` has put mambad,
# to the file system of a container that holds mambad, mambactl, the story model, their libraries, and nothing else: no shell,
# no packages. For the Dockerfile; on a Debian of the release that mambad was built on.
set -euo pipefail
shopt -s inherit_errexit

(($# == 1)) && [[ -x $1/usr/bin/mambad ]] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
image=$1

# What serves nobody in a container.
rm -rf "$image"/usr/bin/{mambad-models,trainer} "$image"/usr/lib/{systemd,sysusers.d} "$image/usr/share/mambad/monitoring" \
  "$image"/usr/share/mambad/models/{smollm2,stories/recipe} "$image"/usr/share/doc/mambad/configurations \
  "$image"/usr/share/{man,bash-completion,zsh,fish}

# Other machines can call it: nobody is asked who he is.
sed -i -E -e 's/^( *listen: ")127\.0\.0\.1:/\10.0.0.0:/' -e 's/^(allow_insecure: )false/\1true/' "$image/etc/mambad/mambad.yaml"
[[ $(grep -cE '0\.0\.0\.0:|^allow_insecure: true' "$image/etc/mambad/mambad.yaml") == 3 ]]

# An init, which hands signals on and buries what is orphaned.
install -D --mode=755 /usr/bin/tini-static "$image/usr/bin/tini"

# Libraries, where the loader looks without a cache. Debian has /lib and /lib64 below /usr.
mkdir -p "$image"/usr/lib/x86_64-linux-gnu "$image/usr/lib64"
ln -sfn usr/lib "$image/lib"
ln -sfn usr/lib64 "$image/lib64"
libraries=$(ldd "$image"/usr/bin/mamb* "$image"/usr/lib/mambad/*.so |
  awk '$2 == "=>" && $3 ~ "^/" {print $3} $1 ~ "^/.*ld-linux" {print $1}' | sort -u)
for library in $libraries; do
  case $library in
    */ld-linux*) cp -L "$library" "$image/usr/lib64/" ;;
    *) cp -L "$library" "$image/usr/lib/x86_64-linux-gnu/" ;;
  esac
done

# What packages they are of: their licences, and their versions where scanners for known faults look.
for library in $libraries /usr/bin/tini-static; do
  library=$(realpath "$library")
  dpkg --search "$library" 2>/dev/null || dpkg --search "${library#/usr}"
done | cut -d: -f1 | sort -u | while read -r package; do
  install -D --mode=644 "/usr/share/doc/$package/copyright" "$image/usr/share/doc/$package/copyright"
  mkdir -p "$image/var/lib/dpkg/status.d"
  dpkg-query --status "$package" >"$image/var/lib/dpkg/status.d/$package"
done
# Scanners know the distribution by the one, NVIDIA's container toolkit by the other where libraries belong.
install --mode=644 /etc/os-release /etc/debian_version "$image/etc/"

# Terminals that mambactl chat knows how to write to.
for terminal in d/dumb l/linux s/screen t/tmux v/vt100 x/xterm x/xterm-256color; do
  [[ ! -e /lib/terminfo/$terminal ]] || install -D --mode=644 "/lib/terminfo/$terminal" "$image/usr/lib/terminfo/$terminal"
done

# A user, names of hosts, and the two places that may be written to.
printf 'root:x:0:0::/:/sbin/nologin\nmambad:x:10001:10001::/var/lib/mambad:/sbin/nologin\n' >"$image/etc/passwd"
printf 'root:x:0:\nmambad:x:10001:\n' >"$image/etc/group"
echo 'hosts: files dns' >"$image/etc/nsswitch.conf"
install --directory --mode=1777 "$image/tmp"
install --directory --owner=10001 --group=10001 --mode=700 "$image/var/lib/mambad"
