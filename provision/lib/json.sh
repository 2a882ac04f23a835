# shellcheck shell=sh
# Reading JSON: documents of clouds, and this node's metadata. Sourced by lib.sh.

# json_get FILE KEY: a string or number of `meta`, else of the top level; dots lead into mappings. Fails when it
# is absent. The tools do this once they are installed; before, what every image has: python3 or Puppet's ruby.
json_get() {
    if command -v python3 >/dev/null 2>&1; then
        python3 -c 'import json, sys
def at(place):
    for word in sys.argv[2].split("."): place = place.get(word) if isinstance(place, dict) else None
    return place
document = json.load(open(sys.argv[1]))
value = at(document.get("meta"))
if value is None: value = at(document)
if value is None: sys.exit(1)
sys.stdout.write(value if isinstance(value, str) else json.dumps(value))' "$1" "$2"
    elif command -v ruby >/dev/null 2>&1; then
        ruby -rjson -e 'at = lambda { |place| ARGV[1].split(".").reduce(place) { |p, word| p.is_a?(Hash) ? p[word] : nil } }
document = JSON.parse(File.read(ARGV[0]))
value = at.call(document["meta"])
value = at.call(document) if value.nil?
exit 1 if value.nil?
print(value.is_a?(String) ? value : JSON.generate(value))' "$1" "$2"
    else
        die 69 "neither python3 nor ruby is here to read $1; next: put one of them into the image"
    fi
}

# The cached metadata as lines `key=value`, so that it is parsed once and not for each question.
flat_metadata() {
    flat=$run_dir/meta_data.flat
    [ -s "$run_dir/meta_data.json" ] || return 1
    [ -n "$(find "$flat" -newer "$run_dir/meta_data.json" 2>/dev/null)" ] || json_flat "$run_dir/meta_data.json" | atomic_write 0640 "$flat" || touch "$flat"
}
json_flat() {
    if command -v python3 >/dev/null 2>&1; then
        python3 -c 'import json, sys
document = json.load(open(sys.argv[1]))
meta = document.get("meta")
for key, value in {**document, **(meta if isinstance(meta, dict) else {})}.items():
    if value is None: continue
    value = value if isinstance(value, str) else json.dumps(value)
    print(key + "=" + value.replace("\\", "\\\\").replace("\n", "\\n"))' "$1"
    else
        ruby -rjson -e 'document = JSON.parse(File.read(ARGV[0]))
meta = document["meta"].is_a?(Hash) ? document["meta"] : {}
document.merge(meta).each do |key, value|
  next if value.nil?
  value = value.is_a?(String) ? value : JSON.generate(value)
  puts key + "=" + value.gsub("\\") { "\\\\" }.gsub("\n") { "\\n" }
end' "$1"
    fi
}

# setting KEY: what an option of bootstrap.sh has laid down on this node; it wins over the metadata.
setting() { sed -n "s/^$1=//p" "${options_file:-$config_dir/bootstrap.conf}" 2>/dev/null | tail -n 1; }

# meta KEY [DEFAULT]: metadata of this node: an option of bootstrap.sh, else by `node-metadata`, or before that is
# installed from the document that the bootstrap cached.
meta() {
    meta_value=$(setting "$1")
    if [ -n "$meta_value" ]; then
        printf '%s' "$meta_value"
        return 0
    fi
    if [ -x "$bin/node-metadata" ] && [ "$dry_run" = no ]; then
        "$bin/node-metadata" -q get "$1" 2>/dev/null && return 0
    else
        flat_metadata && grep -q "^$1=" "$flat" && { printf '%b' "$(sed -n "s/^$1=//p" "$flat")"; return 0; }
    fi
    [ $# -ge 2 ] || die 69 "the metadata has no '$1'; next: give it to the machine as metadata"
    printf '%s' "$2"
}
