# A client of Einhorn's protocol in Ruby's own YAML: sends each request that it reads from standard input as one line of JSON,
# and prints every answer as JSON, until the last one. The first argument is the path of the control socket.
require "json"
require "set"
require "socket"
require "yaml"

socket = UNIXSocket.new(ARGV[0])
$stdin.each_line do |line|
  request = JSON.parse(line)
  socket.write(YAML.dump(request).gsub(/[%\n]/) { |found| "%" + found.unpack1("H2").upcase } + "\n")
  loop do
    answer = socket.gets
    break puts("closed") if answer.nil?
    read = YAML.load(answer.gsub(/%(25|0A)/i) { |found| [found[1..]].pack("H2") })
    if request["command"] == "state"
      # Einhorn's own client allows these classes, and no others.
      read["state"] = YAML.safe_load(read["message"], permitted_classes: [Symbol, Time, Set], aliases: true)
      read["classes"] = read["state"][:state][:children].first.last.transform_values { |value| value.class.name }
    end
    puts(JSON.generate(read, script_safe: true))
    break unless read["wait"]
  end
  $stdout.flush
end
