# frozen_string_literal: true

# Reads YAML documents as Puppet reads its data: from the file ARGV[0], a JSON list of texts, one line of answer each: what it
# means, every value with its type, or `error`.

require 'json'
require 'puppet'

def text(string)
  string = string.dup.force_encoding(Encoding::UTF_8)
  raise 'a binary value' unless string.valid_encoding?

  "\"#{string.unpack1('H*')}\""
end

def meaning(value)
  case value
  when nil then 'null'
  when true, false then value.to_s
  when Integer then "i#{value}"
  when Float then value.nan? ? 'fnan' : "f#{[value].pack('G').unpack1('H*')}"
  when String then text(value)
  when Symbol then ":#{text(value.to_s)}"
  when Array then "[#{value.map { |item| meaning(item) }.join(',')}]"
  when Hash then "{#{value.map { |key, item| "#{meaning(key)}=#{meaning(item)}" }.join(',')}}"
  else raise "a #{value.class}"
  end
end

JSON.parse(File.read(ARGV[0])).each do |document|
  answer =
    begin
      meaning(Puppet::Util::Yaml.safe_load(document, [Symbol]))
    rescue StandardError, SystemStackError
      'error'
    end
  puts answer
end
