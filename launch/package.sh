#!/usr/bin/env bash
# Packs the built tree so that it runs on another machine, one with GPUs say, without a compiler, a package manager or a
# network:  launch/package.sh OUT.tar.gz [BUILD_FOLDER]
# Inside: the installed tree, the tests and benchmarks for GPUs, Open MPI and every other library that they need, but for
# glibc, libstdc++, LibTorch 2.11 and CUDA, which the other machine's Python package torch brings (any folder:
# LOCKSTEP_TORCH_DIR names it where python3 can't import it). There:
#   tar xf OUT.tar.gz && lockstep/run mpirun -n 4 lockstep train ...     or     lockstep/run tests/gpu.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:?usage: launch/package.sh OUT.tar.gz [BUILD_FOLDER]}
build=${2:-$root/build/release}
[ -x "$build/bin/lockstep" ] || { echo "$build/bin/lockstep is not there: build first" >&2; exit 64; }
[ -e "$build/bin/liblockstep_cuda.so" ] || { echo "$build has no library for GPUs: launch/setup.sh, cmake" >&2; exit 64; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/lockstep
mkdir -p "$tree/lib" "$tree/openmpi/bin" "$tree/openmpi/share"
cmake --install "$build" --prefix "$tree" --strip >"$work/install.log" || { tail -20 "$work/install.log" >&2; exit 70; }
# What programs link, another machine's users don't: no headers, no static libraries.
rm -rf "$tree/include" "$tree"/lib/*.a "$tree/lib/cmake"
cp "$build/tests/gpu_test" "$build/bin/gpu_bench" "$build/bin/step_bench" "$tree/bin/"
strip "$tree"/bin/*
mkdir -p "$tree/tests/gpu" "$tree/benchmarks/peers"
cp "$root/tests/gpu.sh" "$tree/tests/"
cp "$root"/tests/gpu/*.py "$tree/tests/gpu/"
cp "$root"/benchmarks/peers/*.py "$tree/benchmarks/peers/"

# Open MPI, as it lies below /usr: it finds everything else from OPAL_PREFIX.
mpi_home=$(ompi_info --path pkglibdir | awk '{print $NF}') # .../openmpi/lib/openmpi3
case $mpi_home in
  /usr/*/lib/openmpi3) mpi_home=${mpi_home%/lib/openmpi3} ;;
  *) echo "Open MPI is not where Debian puts it: $mpi_home" >&2; exit 70 ;;
esac
below=${mpi_home#/usr/}
mkdir -p "$tree/openmpi/$below/lib"
cp -a "$mpi_home/lib/openmpi3" "$tree/openmpi/$below/lib/"
cp -a "$mpi_home"/lib/libmca_common_* "$tree/openmpi/$below/lib/"
cp -L "$(command -v mpirun)" "$tree/openmpi/bin/mpirun"
cp -L "$(command -v orted)" "$tree/openmpi/bin/orted"
cp -a /usr/share/openmpi "$tree/openmpi/share/"
pmix=$(dirname "$mpi_home")/pmix2
if [ -d "$pmix/lib/pmix" ]; then
  mkdir -p "$tree/openmpi/${pmix#/usr/}/lib"
  cp -a "$pmix/lib/pmix" "$tree/openmpi/${pmix#/usr/}/lib/"
fi
# Fabrics and accelerators that need drivers of their own, and Java and Fortran: not in a package for a test machine.
(cd "$tree/openmpi/$below/lib/openmpi3" &&
  rm -f mca_*_ucx.so mca_*_ofi.so mca_*_psm*.so mca_*_openib.so mca_*_usnic.so mca_*_cuda.so mca_*_portals*.so \
    mca_*_monitoring.so mca_coll_hcoll.so mca_io_romio*.so mca_fs_*.so mca_fcoll_*.so)
rm -f "$tree/openmpi/$below"/lib/libmca_common_{ucx,ofi,verbs,monitoring}*

# Everything that these need and that no other machine can be expected to have.
needed() {
  find "$tree" -type f \( -name '*.so*' -o -perm -u+x \) -print0 | xargs -0 -n 1 ldd 2>/dev/null
}
missing=$(needed | grep 'not found' | sort -u || true)
[ -z "$missing" ] || { printf 'not found on this machine:\n%s\n' "$missing" >&2; exit 70; }
own_libraries() {
  needed | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
    grep -v -E '/(libc|libm|libdl|librt|libpthread|libutil|libresolv|ld-linux[^/]*|libstdc\+\+|libgcc_s)\.so' |
    grep -v -E '/(torch/lib|nvidia)/|^'"$tree"'/'
}
for library in $(own_libraries); do cp -L "$library" "$tree/lib/"; done
find "$tree/lib" "$tree/openmpi" -name '*.so*' -type f -exec strip --strip-unneeded {} + 2>/dev/null || true

cat >"$tree/run" <<'RUN'
#!/usr/bin/env bash
# Runs a command with this package's programs and libraries, and the machine's LibTorch:  run lockstep train ...
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
torch=${LOCKSTEP_TORCH_DIR:-$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null)}
if [ ! -e "$torch/lib/libtorch_cpu.so" ]; then
  echo "LibTorch 2.11 not found: install the Python package torch, or set LOCKSTEP_TORCH_DIR to its folder" >&2
  exit 64
fi
version=$(sed -n "s/^__version__ = '\([^']*\)'.*/\1/p" "$torch/version.py" 2>/dev/null)
case $version in
  2.11.* | "") ;; # LibTorch without Python tells no version
  *) echo "$torch is LibTorch $version, and this was built with 2.11: install torch 2.11, or set LOCKSTEP_TORCH_DIR" >&2; exit 64 ;;
esac
nvidia=$(dirname "$torch")/nvidia
libraries=$here/lib:$here/openmpi/MPI_BELOW/lib:$torch/lib
for folder in "$nvidia"/*/lib; do libraries=$libraries:$folder; done
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PATH=$here/bin:$here/openmpi/bin:$PATH OPAL_PREFIX=$here/openmpi PMIX_INSTALL_PREFIX=$here/openmpi
export LOCKSTEP_PACKAGE=$here
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
if [ $# = 0 ]; then exec lockstep --help; fi
case $1 in tests/*) command=$here/$1; shift; exec "$command" "$@" ;; esac
exec "$@"
RUN
sed -i "s|MPI_BELOW|$below|" "$tree/run"
chmod +x "$tree/run"

mkdir -p "$(dirname "$out")"
tar -C "$work" -czf "$out" lockstep
bytes=$(stat -c %s "$out")
[ "$bytes" -le 60000000 ] || { echo "$out has $bytes bytes, more than 60 MB" >&2; exit 70; }
echo "$out: $((bytes / 1000000)) MB"
