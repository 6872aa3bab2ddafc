// A window of the desktop: the guest's pixels where they are, the host's border around them. No filter and no
// scale: a pixel of the guest is one of the desktop.

struct Window {
    // Left, top, right, bottom of the content; of the label. Pixels of the window.
    content: vec4<u32>,
    label: vec4<u32>,
    colour: vec4<f32>,
    // 1: alpha of the content counts.
    alpha: vec4<u32>,
}

@group(0) @binding(0) var<uniform> window: Window;
@group(0) @binding(1) var content: texture_2d<f32>;
@group(0) @binding(2) var label: texture_2d<f32>;

// One triangle that covers the window.
@vertex
fn corner(@builtin(vertex_index) index: u32) -> @builtin(position) vec4<f32> {
    let x = f32(i32(index & 1u) * 4 - 1);
    let y = f32(i32(index >> 1u) * 4 - 1);
    return vec4<f32>(x, y, 0.0, 1.0);
}

fn inside(at: vec2<u32>, area: vec4<u32>) -> bool {
    return all(at >= area.xy) && all(at < area.zw);
}

@fragment
fn pixel(@builtin(position) position: vec4<f32>) -> @location(0) vec4<f32> {
    let at = vec2<u32>(position.xy);
    if inside(at, window.content) {
        let colour = textureLoad(content, at - window.content.xy, 0);
        if window.alpha.x == 1u {
            // Premultiplied: no more than there is of it.
            return vec4<f32>(min(colour.rgb, vec3<f32>(colour.a)), colour.a);
        }
        return vec4<f32>(colour.rgb, 1.0);
    }
    if inside(at, window.label) {
        return textureLoad(label, at - window.label.xy, 0);
    }
    return window.colour;
}
