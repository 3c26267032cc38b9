//! Prints the file that each argument names, or `none`.

const std = @import("std");

pub fn main() !void {
    var arena = std.heap.ArenaAllocator.init(std.heap.page_allocator);
    defer arena.deinit();
    const allocator = arena.allocator();
    const arguments = try std.process.argsAlloc(allocator);
    for (arguments[1..]) |path| {
        const contents = std.fs.cwd().readFileAlloc(allocator, path, 4096) catch "none\n";
        try std.fs.File.stdout().writeAll(contents);
    }
}
